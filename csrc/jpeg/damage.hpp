// Finds damage in the entropy-coded data of a JPEG file, without decoding pixels.
//
// JPEG has no checksum, but few random bits are a valid stream. The Huffman codes of all scans are read, and
// these rules of ITU-T T.81 are checked:
//
//     - Every code exists.
//     - No run of zeros goes beyond the last coefficient of its block.
//     - DC differences have at most 11 bits, and AC coefficients at most 10.
//     - No DC coefficient is larger than 8-bit samples can give. In sequential coding, this is also checked
//       for the norm of each block.
//     - A code that ends several blocks does not end more blocks than are left.
//     - Restart markers are in their places.
//     - The last code ends in the last byte before the next marker. The unused bits of that byte are equal.
//
// Checked are sequential and progressive Huffman coding of 8 bits: SOF0, SOF1 and SOF2. Other JPEG files are
// not checked, and errors of headers are left to the decoder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace medvlad {

// Returns what is wrong with the JPEG data, or an empty text if nothing was found. Memory: a copy of the
// data; for progressive JPEG also one word for each block of 8 x 8 coefficients. The caller limits the size
// of the image.
std::string jpeg_damage(const std::uint8_t* data, std::size_t size);

}  // namespace medvlad
