// Scales the region of a camera image on the GPU as two small matrix products, and cuts it into network inputs.
//
// build.sh makes scale.ptx of it. Drivers from CUDA 11 on compile that, so that no machine on the line needs nvcc. Tests compile
// this file as C++ for the mock GPU.

struct Scaling {
    const unsigned char *region;   // [region_height, region_width, channels]
    unsigned short *rows;          // [part_height, region_width, channels], 256 times the grey value
    unsigned char *frames;         // [n, height, width, 3]
    const int *starts_y, *starts_x;        // the first pixel of the region that makes a pixel of the part
    const float *weights_y, *weights_x;    // [part_height, taps_y] and [part_width, taps_x]
    const int *tiles;              // x and y of each tile in the part; negative: the tile starts with padding
    int region_width, channels, part_height, part_width, taps_y, taps_x, height, width;
    float rounding;                // added to a grey value, of which the whole part is kept
    int unused;                    // the struct's size is a multiple of eight
};

// Average along y. One thread for each column and channel (x) and part row (y).
extern "C" __global__ void scale_rows(Scaling s) {
    const int line = s.region_width * s.channels;
    const int column = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y;
    if (column >= line) return;
    const unsigned char *pixel = s.region + (size_t)s.starts_y[y] * line + column;
    const float *weights = s.weights_y + y * s.taps_y;
    float sum = 0;
    #pragma unroll 1
    for (int k = 0; k < s.taps_y; k++) sum += weights[k] * pixel[(size_t)k * line];
    s.rows[(size_t)y * line + column] = (unsigned short)(sum * 256 + 0.5f);
}

// The pixel of the part that a tile shows at place i. Outside of the part, a tile shows a mirror image of what it shows of the part.
static __device__ int shown(int i, int tile_start, int tile_size, int part_size) {
    const int first = tile_start > 0 ? tile_start : 0;
    const int end = tile_start + tile_size < part_size ? tile_start + tile_size : part_size;
    i += tile_start;
    while (i < first || i >= end) i = (i < first ? 2 * first : 2 * end) - i - 1;
    return i;
}

// Average along x. One thread for each pixel (x, y) of each tile (z).
extern "C" __global__ void scale_columns(Scaling s) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y, tile = blockIdx.z;
    if (x >= s.width) return;
    const int part_x = shown(x, s.tiles[2 * tile], s.width, s.part_width);
    const int part_y = shown(y, s.tiles[2 * tile + 1], s.height, s.part_height);
    const unsigned short *row = s.rows + ((size_t)part_y * s.region_width + s.starts_x[part_x]) * s.channels;
    const float *weights = s.weights_x + part_x * s.taps_x;
    unsigned char *pixel = s.frames + (((size_t)tile * s.height + y) * s.width + x) * 3;
    for (int c = 0; c < 3; c++) {
        const int channel = s.channels == 1 ? 0 : c;
        float sum = 0;
        #pragma unroll 1
        for (int k = 0; k < s.taps_x; k++) sum += weights[k] * row[k * s.channels + channel];
        pixel[c] = (unsigned char)(sum * (1 / 256.0f) + s.rounding);
    }
}
