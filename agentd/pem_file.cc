#include "agentd/pem_file.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace hud {
namespace {

constexpr absl::string_view kBegin = "-----BEGIN ";
constexpr absl::string_view kEnd = "-----END ";
constexpr absl::string_view kDashes = "-----";
constexpr size_t kLongestLabel = 40;
constexpr absl::string_view kEncrypted =
    "the key is encrypted, and nobody is there to be asked for its password; decrypt it: openssl pkey -in FILE -out NEW";

// What stands between "-----BEGIN " and "-----"; empty if the line is no such line.
absl::string_view LabelIn(absl::string_view line, absl::string_view opening) {
  if (!absl::StartsWith(line, opening) || !absl::EndsWith(line, kDashes) || line.size() < opening.size() + kDashes.size()) return {};
  const absl::string_view label = line.substr(opening.size(), line.size() - opening.size() - kDashes.size());
  const bool plain = std::all_of(label.begin(), label.end(), [](char c) { return c == ' ' || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z'); });
  return plain && label.size() <= kLongestLabel ? label : absl::string_view();
}

bool IsWanted(absl::string_view label, PemKind wanted) {
  if (wanted == PemKind::kPrivateKey) return absl::EndsWith(label, "PRIVATE KEY");
  return label == "CERTIFICATE" || label == "X509 CERTIFICATE" || label == "TRUSTED CERTIFICATE";
}

bool IsBase64(absl::string_view line) {
  return std::all_of(line.begin(), line.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '+' || c == '/' || c == '=';
  });
}

// Takes the lines one by one, with their numbers.
class Lines {
 public:
  explicit Lines(absl::string_view text) : rest_(text) {}
  bool Next(absl::string_view& line) {
    if (rest_.empty()) return false;
    ++number_;
    const size_t end = std::min(rest_.find('\n'), rest_.size());
    line = rest_.substr(0, end);
    rest_.remove_prefix(std::min(end + 1, rest_.size()));
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ' || line.back() == '\t')) line.remove_suffix(1);
    return true;
  }
  size_t number() const { return number_; }

 private:
  absl::string_view rest_;
  size_t number_ = 0;
};

std::string At(size_t number, absl::string_view what) { return absl::StrCat("line ", number, ": ", what); }

// From behind its BEGIN line to its END line.
std::string ExplainBlock(Lines& lines, absl::string_view label) {
  const size_t begin = lines.number();
  bool empty = true;
  for (absl::string_view line; lines.Next(line);) {
    if (LabelIn(line, kEnd) == label) return empty ? At(begin, absl::StrCat("nothing is in this block (", label, ")")) : "";
    if (absl::StartsWith(line, kDashes)) return At(lines.number(), absl::StrCat("not the end of the block of line ", begin, " (", kEnd, label, kDashes, ")"));
    if (line == "Proc-Type: 4,ENCRYPTED") return At(lines.number(), kEncrypted);
    const bool is_header = line.find(": ") != absl::string_view::npos;
    if (!is_header && !IsBase64(line)) return At(lines.number(), "is not base64");
    empty &= line.empty();
  }
  return At(begin, absl::StrCat("this block has no end (", kEnd, label, kDashes, "); was the file cut off?"));
}

}  // namespace

std::string ExplainPem(std::string_view text, PemKind wanted) {
  const char* name = wanted == PemKind::kCertificate ? "certificate" : "private key";
  if (text.empty()) return "is empty";
  std::string others;
  Lines lines({text.data(), text.size()});
  for (absl::string_view line; lines.Next(line);) {
    const absl::string_view label = LabelIn(line, kBegin);
    if (label.empty()) continue;
    if (!IsWanted(label, wanted)) {
      if (others.empty()) others = At(lines.number(), absl::StrCat("has a block of another kind (", label, "), and no ", name, " follows"));
      continue;
    }
    if (label == "ENCRYPTED PRIVATE KEY") return At(lines.number(), kEncrypted);
    return ExplainBlock(lines, label);
  }
  if (!others.empty()) return others;
  const bool is_der = static_cast<unsigned char>(text[0]) == 0x30;
  return absl::StrCat("has no line -----BEGIN ", wanted == PemKind::kCertificate ? "CERTIFICATE" : "PRIVATE KEY", "-----",
                      is_der ? "; it looks like DER: convert it with openssl" : "");
}

}  // namespace hud
