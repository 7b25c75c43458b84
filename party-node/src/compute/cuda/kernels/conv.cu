// Convolutions as products whose factors are gathered while tiles are loaded: no patches are written anywhere.

// A number below 2^31 divided by a fixed one: multiply, shift. Made by `divisor` of conv.rs.
struct Divisor {
    u64 by, magic;

    DEVICE_MEMBER u32 quotient(u32 n) const { return (u32)((u64)n * (u32)magic >> (magic >> 32)); }

    DEVICE_MEMBER u32 split(u32 n, u32 &rest) const {
        u32 q = quotient(n);
        rest = n - q * (u32)by;
        return q;
    }
};

// The numbers of a `ConvShape`; `read` and `written` are the channels of a group on either side.
struct Shape {
    u64 images, height, width, channels, out_height, out_width, out_channels, read, written, elements;
    u64 padding_top, padding_left, dilation_y, dilation_x;
    Divisor stride_y, stride_x, by_height, by_width, by_out_height, by_out_width, by_kernel_x, by_read, by_written;
};

// The pixel that one element of the kernel sees from a pixel of the result, if it lies within the image.
DEVICE bool seen(const Shape &s, u32 pixel, u32 element, u64 &at) {
    u32 x, y, kernel_x;
    u32 line = s.by_out_width.split(pixel, x), image = s.by_out_height.split(line, y);
    u32 kernel_y = s.by_kernel_x.split(element, kernel_x);
    i32 in_y = (i32)(y * (u32)s.stride_y.by + kernel_y * (u32)s.dilation_y) - (i32)s.padding_top;
    i32 in_x = (i32)(x * (u32)s.stride_x.by + kernel_x * (u32)s.dilation_x) - (i32)s.padding_left;
    at = ((u64)image * s.height + (u64)(i64)in_y) * s.width + (u64)(i64)in_x;
    return in_y >= 0 && in_y < (i32)s.height && in_x >= 0 && in_x < (i32)s.width;
}

// The pixel of the result that sees a pixel of an image through one element of the kernel, if there is one.
DEVICE bool sees(const Shape &s, u32 pixel, u32 element, u64 &at) {
    u32 x, y, kernel_x, rest_y, rest_x;
    u32 line = s.by_width.split(pixel, x), image = s.by_height.split(line, y);
    u32 kernel_y = s.by_kernel_x.split(element, kernel_x);
    i32 from_y = (i32)(y + (u32)s.padding_top) - (i32)(kernel_y * (u32)s.dilation_y);
    i32 from_x = (i32)(x + (u32)s.padding_left) - (i32)(kernel_x * (u32)s.dilation_x);
    if (from_y < 0 || from_x < 0) return false;
    u32 out_y = s.stride_y.split((u32)from_y, rest_y), out_x = s.stride_x.split((u32)from_x, rest_x);
    at = ((u64)image * s.out_height + out_y) * s.out_width + out_x;
    return rest_y == 0 && rest_x == 0 && out_y < s.out_height && out_x < s.out_width;
}

// Pixels of the result by terms (element of the kernel, channel of the group), or the transpose.
struct Patches {
    const Shape &s;
    Form images;
    u64 group;

    DEVICE_MEMBER u64 of(u64 pixel, u64 term) const {
        u32 channel;
        u64 at;
        u32 element = s.by_read.split((u32)term, channel);
        return seen(s, (u32)pixel, element, at) ? images.at(at * s.channels + group * s.read + channel) : 0;
    }
};

struct PatchRows : Patches {
    static const bool ALONG_K = true;
    DEVICE_MEMBER u64 at(u64 pixel, u64 term) const { return of(pixel, term); }
};

struct PatchColumns : Patches {
    static const bool ALONG_K = false;
    DEVICE_MEMBER u64 at(u64 term, u64 pixel) const { return of(pixel, term); }
};

// Lines of `out_channels` words (weights by term, results by pixel), of which a group has a piece.
struct GroupColumns {
    static const bool ALONG_K = false;
    const Shape &s;
    Form form;
    u64 group;

    DEVICE_MEMBER u64 at(u64 k, u64 column) const { return form.at(k * s.out_channels + group * s.written + column); }
};

// Pixels of the images by (element of the kernel, channel that the group writes): the gradients that they have a part in.
struct SeenBy {
    static const bool ALONG_K = true;
    const Shape &s;
    Form gradient;
    u64 group;

    DEVICE_MEMBER u64 at(u64 pixel, u64 k) const {
        u32 channel;
        u64 at;
        u32 element = s.by_written.split((u32)k, channel);
        return sees(s, (u32)pixel, element, at) ? gradient.at(at * s.out_channels + group * s.written + channel) : 0;
    }
};

// (Element of the kernel, channel that the group writes) by channels that it reads.
struct TurnedWeights {
    static const bool ALONG_K = true;
    const Shape &s;
    Form weights;
    u64 group;

    DEVICE_MEMBER u64 at(u64 k, u64 column) const {
        u32 channel;
        u32 element = s.by_written.split((u32)k, channel);
        return weights.at((element * s.read + column) * s.out_channels + group * s.written + channel);
    }
};

// Block y is a group.
template <int ROWS, int COLUMNS>
DEVICE void conv_product(u64 *out, const Shape &s, const Form &images, const Form &weights, u64 k_share) {
    u64 group = blockIdx.y, pixels = s.images * s.out_height * s.out_width, terms = s.elements * s.read;
    PatchRows left = {{s, images, group}};
    GroupColumns right = {s, weights, group};
    Part part = part_of_block<ROWS, COLUMNS>(s.written, terms, k_share);
    add_product<ROWS, COLUMNS>(out + group * s.written, s.out_channels, pixels, s.written, left, right, part);
}

template <int ROWS, int COLUMNS>
DEVICE void conv_weights_product(u64 *out, const Shape &s, const Form &images, const Form &gradient, u64 k_share) {
    u64 group = blockIdx.y, pixels = s.images * s.out_height * s.out_width, terms = s.elements * s.read;
    PatchColumns left = {{s, images, group}};
    GroupColumns right = {s, gradient, group};
    Part part = part_of_block<ROWS, COLUMNS>(s.written, pixels, k_share);
    add_product<ROWS, COLUMNS>(out + group * s.written, s.out_channels, terms, s.written, left, right, part);
}

template <int ROWS, int COLUMNS>
DEVICE void conv_images_product(u64 *out, const Shape &s, const Form &gradient, const Form &weights, u64 k_share) {
    u64 group = blockIdx.y, pixels = s.images * s.height * s.width, depth = s.elements * s.written;
    SeenBy left = {s, gradient, group};
    TurnedWeights right = {s, weights, group};
    Part part = part_of_block<ROWS, COLUMNS>(s.read, depth, k_share);
    add_product<ROWS, COLUMNS>(out + group * s.read, s.channels, pixels, s.read, left, right, part);
}

#define CONV(name, product, ROWS, COLUMNS) \
    COOPERATIVE name(u64 *out, Shape s, Form x, Form y, u64 k_share) { product<ROWS, COLUMNS>(out, s, x, y, k_share); }

CONV(conv_64x64, conv_product, 4, 4)
CONV(conv_64x32, conv_product, 4, 2)
CONV(conv_64x16, conv_product, 4, 1)
CONV(conv_weights_64x64, conv_weights_product, 4, 4)
CONV(conv_weights_64x32, conv_weights_product, 4, 2)
CONV(conv_weights_64x16, conv_weights_product, 4, 1)
CONV(conv_images_64x64, conv_images_product, 4, 4)
CONV(conv_images_64x32, conv_images_product, 4, 2)
CONV(conv_images_64x16, conv_images_product, 4, 1)

// Few channels to a group: an element for every thread, neighbours along the channels.

KERNEL conv_direct(u64 *out, Shape s, Form images, Form weights) {
    u64 outputs = s.images * s.out_height * s.out_width * s.out_channels;
    EACH(i, outputs) {
        u64 pixel = i / s.out_channels, channel = i % s.out_channels, first = channel / s.written * s.read, sum = 0;
        for (u64 element = 0; element < s.elements; element++) {
            u64 at;
            if (!seen(s, (u32)pixel, (u32)element, at)) continue;
            for (u64 c = 0; c < s.read; c++)
                sum += images.at(at * s.channels + first + c)
                    * weights.at((element * s.read + c) * s.out_channels + channel);
        }
        out[i] += sum;
    }
}

KERNEL conv_images_direct(u64 *out, Shape s, Form gradient, Form weights) {
    u64 inputs = s.images * s.height * s.width * s.channels;
    EACH(i, inputs) {
        u64 pixel = i / s.channels, channel = i % s.channels;
        u64 first = channel / s.read * s.written, inner = channel % s.read, sum = 0;
        for (u64 element = 0; element < s.elements; element++) {
            u64 at;
            if (!sees(s, (u32)pixel, (u32)element, at)) continue;
            for (u64 c = 0; c < s.written; c++)
                sum += gradient.at(at * s.out_channels + first + c)
                    * weights.at((element * s.read + inner) * s.out_channels + first + c);
        }
        out[i] += sum;
    }
}

// A weight and a share of the pixels for every thread.
KERNEL conv_weights_direct(u64 *out, Shape s, Form images, Form gradient, u64 pixels_share) {
    u64 pixels = s.images * s.out_height * s.out_width, weights = s.elements * s.read * s.out_channels;
    u64 shares = (pixels + pixels_share - 1) / pixels_share;
    EACH(i, weights * shares) {
        u64 weight = i % weights, term = weight / s.out_channels, channel = weight % s.out_channels;
        u64 element = term / s.read, source = channel / s.written * s.read + term % s.read, sum = 0;
        u64 first = i / weights * pixels_share;
        for (u64 pixel = first; pixel < smaller(pixels, first + pixels_share); pixel++) {
            u64 at;
            if (seen(s, (u32)pixel, (u32)element, at))
                sum += images.at(at * s.channels + source) * gradient.at(pixel * s.out_channels + channel);
        }
        atomicAdd(&out[weight], sum);
    }
}
