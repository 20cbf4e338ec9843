"""Inspects an archive of images again with a bundle, and compares two results. Main thread, and threads that read images.

`image_list` finds the images, `image_inspection` runs them through an engine, `result_rows` and `result_folder` are the result,
`on_this_machine` and `on_ray` do the work, `difference` compares two results. All but `image_list` and `image_inspection` need
pyarrow, and `on_ray` needs Ray, so callers import the modules that they use.
"""
