"""Shows station, results and recipes as the objects of OPC 40100-1 (Machine Vision, part 1). The event loop's thread."""
