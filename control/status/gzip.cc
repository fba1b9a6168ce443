#include "control/status/gzip.h"

#include <zlib.h>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace hud {
namespace {

constexpr int kGzipFormat = 16;  // added to the window bits: a gzip header and trailer, not zlib's

}  // namespace

bool AcceptsGzip(std::string_view accept_encoding) {
  const absl::string_view text(accept_encoding.data(), accept_encoding.size());
  for (absl::string_view item : absl::StrSplit(text, ',')) {
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(item, absl::MaxSplits(';', 1));
    if (!absl::EqualsIgnoreCase(absl::StripAsciiWhitespace(parts.first), "gzip")) continue;
    absl::string_view weight = absl::StripAsciiWhitespace(parts.second);
    if (weight.empty()) return true;
    const bool is_weight = absl::ConsumePrefix(&weight, "q=") || absl::ConsumePrefix(&weight, "Q=");
    double q = 0;
    return is_weight && absl::SimpleAtod(weight, &q) && q > 0;
  }
  return false;
}

std::optional<std::string> Gzip(std::string_view text) {
  z_stream stream{};
  // The quickest level: these texts repeat themselves, and a scrape comes every few seconds.
  if (::deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, MAX_WBITS + kGzipFormat, MAX_MEM_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK) {
    return std::nullopt;
  }
  std::string out(::deflateBound(&stream, text.size()), '\0');
  stream.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(text.data()));  // zlib does not write to it
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  const int result = ::deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  ::deflateEnd(&stream);
  if (result != Z_STREAM_END) return std::nullopt;
  return out;
}

}  // namespace hud
