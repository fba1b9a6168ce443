// The property of every parser here that keeps no state: as bytes arrive it says "need more", then once something else,
// and never changes its mind. Each prefix lies in a heap block of its own size, so that a read behind it is seen.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "core/base/check.h"
#include "core/base/types.h"

namespace hud::fuzz {

template <typename Parse>
auto ParseExact(Bytes input, const Parse& parse) {
  const auto exact = std::make_unique<uint8_t[]>(input.size());
  std::copy(input.begin(), input.end(), exact.get());
  return parse(Bytes(exact.get(), input.size()));
}

// `parse` gives a verdict for a prefix. Returns the verdict for all of it. Looks at the first prefixes one by one, at
// those around the decision, and at some between: where they lie depends on the input's size, so a corpus covers them
// all.
template <typename Verdict, typename Parse>
Verdict CheckGrowingPrefix(Bytes input, Verdict need_more, const Parse& parse) {
  const Verdict whole = ParseExact(input, parse);
  size_t undecided = 0;           // the longest prefix known to need more, plus one …
  size_t decided = input.size();  // … and the shortest known not to
  if (whole == need_more) {
    undecided = input.size() + 1;
  } else {
    while (undecided < decided) {
      const size_t middle = undecided + (decided - undecided) / 2;
      if (ParseExact(input.first(middle), parse) == need_more) {
        undecided = middle + 1;
      } else {
        decided = middle;
      }
    }
  }
  const auto check = [&](size_t count) {
    HUD_CHECK(ParseExact(input.first(count), parse) == (count < undecided ? need_more : whole));
  };
  constexpr size_t kFirst = 32;
  for (size_t count = 0; count <= std::min(input.size(), kFirst); ++count) check(count);
  for (size_t count = undecided - std::min<size_t>(undecided, 8); count <= std::min(input.size(), undecided + 8);
       ++count) {
    check(count);
  }
  for (size_t count = kFirst; count <= input.size(); count += 1 + input.size() / 37) check(count);
  return whole;
}

}  // namespace hud::fuzz
