"""Sources of frames: V4L2 devices, streams, GenICam cameras, video files, folders of images, the demo line."""
