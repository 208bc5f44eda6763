// What both forms do alike for models of whole pixels: where a row stands in its image, and what lies around it.
//
// Two rings hold the past. The ring of tokens (PIXEL) has `period` pixels of C tokens each; the ring of a layer's taps
// (TAPS) has width + 1 slots, one vector per pixel. Both are counted from the position at which the state came in
// (Input::since). Rows that are taken together stand at the same position of their images, so a border is a branch for
// all of them.

#pragma once

#include <array>
#include <cstdint>

#include "plan.h"
#include "steps.h"
#include "vectors.h"

namespace {

// Where a step stands. The token that it is fed is the value before the one that it predicts.
struct Spot {
  bool begins;                    // whether the value to predict is the first one of a pixel
  uint64_t channel, row, column;  // of the value to predict
  uint64_t token, pixel;          // slots of the token in the ring of tokens, and of the pixel in those of taps
};

// How many pixels have begun before `position`.
inline uint64_t begun(const Op& pixel, uint64_t position) { return (position + pixel.channels - 1) / pixel.channels; }

inline Spot spot_of(const Op& pixel, const Input& input) {
  const uint64_t position = input.position, since = input.since, C = pixel.channels, at = position / C;
  return {position % C == 0, position % C, at / pixel.width % pixel.height, at % pixel.width, slot_now(pixel, input),
          (begun(pixel, position) - begun(pixel, since)) % (pixel.width + uint64_t(1))};
}

// Whether the pixel at an offset lies in the image. All offsets point back, so it cannot lie below the last row.
inline bool inside(const Op& pixel, const Spot& spot, Offset offset) {
  const int64_t row = int64_t(spot.row) + offset.rows, column = int64_t(spot.column) + offset.columns;
  return row >= 0 && column >= 0 && column < int64_t(pixel.width);
}

// The slot of a channel of the pixel at an offset from the one that begins. That one begins behind the present token.
inline uint64_t slot_of(const Op& pixel, const Spot& spot, Offset offset, uint64_t channel) {
  const uint64_t back = -(int64_t(offset.rows) * pixel.width + offset.columns);
  return (spot.token + 1 + (pixel.period - back) * pixel.channels + channel) % pixel.in;
}

// The slot of an earlier channel of the pixel under way.
inline uint64_t slot_of(const Op& pixel, const Spot& spot, uint64_t channel) {
  return (spot.token + 1 + pixel.in - spot.channel + channel) % pixel.in;
}

// A value as a number from -1 to 1.
template <class V> inline V amplitude(const Op& pixel, V value) { return value * (2.0f / (pixel.levels - 1)) - 1.0f; }

constexpr std::array<Offset, NEAREST> NEAR = {{{0, -1}, {-1, -1}, {-1, 0}, {-1, 1}}};
constexpr Offset LEFT = NEAR[0], ABOVE_LEFT = NEAR[1], ABOVE = NEAR[2];

// Calls use(table, slot) for each channel of the nearest pixels that WHERE has tables for and that lie in the image:
// with the number of the table, and the channel's slot in the ring of tokens.
template <class Use> inline void for_near_values(const Op& pixel, const Op& where, const Spot& spot, Use use) {
  for (uint64_t table = 0; table * pixel.levels < where.modes; ++table)
    if (const Offset offset = NEAR[table / pixel.channels]; inside(pixel, spot, offset))
      use(table, slot_of(pixel, spot, offset, table % pixel.channels));
}

// The slot of each tap in the ring, or -1 outside of the image. The pixel above left is width + 1 pixels ago, the
// length of the ring: it has the slot that the present pixel takes, so read before you write.
inline std::array<int64_t, NEAREST> taps_at(const Op& pixel, const Spot& spot) {
  std::array<int64_t, NEAREST> slots;
  const int64_t width = pixel.width, ring = width + 1;
  for (int i = 0; i < NEAREST; ++i) {
    const int64_t back = -(NEAR[i].rows * width + NEAR[i].columns);
    slots[i] = inside(pixel, spot, NEAR[i]) ? (int64_t(spot.pixel) + ring - back) % ring : -1;
  }
  return slots;
}

// Where the state that a layer uses at this pixel begins among its states (one per column, or one), in floats per row;
// and whether it starts from zero here: along rows at the left border, down columns at the top.
inline uint64_t lane_at(const Op& op, const Spot& spot) {
  return op.axis == COLUMN ? spot.column * 2 * op.modes * padded(op.in) : 0;
}
inline bool begins_anew(const Op& op, const Spot& spot) {
  return op.axis == ROW ? spot.column == 0 : op.axis == COLUMN && spot.row == 0;
}

// JPEG-LS's predictor (ITU-T T.87, A.3): at an edge the smaller or larger neighbour, else the plane through all three.
template <class V> inline V median_edge(V left, V above, V above_left) {
  const V low = smaller(left, above), high = larger(left, above);
  return above_left >= high ? low : above_left <= low ? high : left + above - above_left;
}
// The same at the borders, where only one neighbour, or none, is known.
template <class V> inline V predicted(const Spot& spot, V left, V above, V above_left) {
  if (spot.row == 0) return spot.column == 0 ? V{} : left;
  return spot.column == 0 ? above : median_edge(left, above, above_left);
}

}  // namespace
