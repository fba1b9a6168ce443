#include "core/affinity/prefix_store.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hud {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

Bytes Of(std::string_view text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }
PrefixStore::Entry Entry(std::string_view prefix, uint16_t node) {
  return {TicketPrefix::Of(Of(prefix)), static_cast<NodeIndex>(node)};
}
std::vector<uint16_t> Raws(std::span<const NodeIndex> owners) {
  std::vector<uint16_t> raw;
  for (const NodeIndex owner : owners) raw.push_back(Raw(owner));
  return raw;
}

PrefixStore Store() {
  const std::vector<PrefixStore::Entry> entries = {
      Entry("sixteen-bytes-of", 2), Entry("sixteen-bytes-of", 1), Entry("sixteen-bytes-of", 2),
      Entry("sixteen-bytes-of-s2n", 3), Entry("sixt", 4), Entry("abc", 5), Entry(std::string(32, 'x'), 6)};
  return PrefixStore(entries);
}

struct Row {
  const char* name;
  std::string token_head;
  std::vector<uint16_t> owners;
};

TEST(PrefixStore, FindsTheOwnersOfTheLongestPrefix) {
  const Row rows[] = {
      {"a ticket of a key that two nodes share, each named once", "sixteen-bytes-of ticket", {1, 2}},
      {"the longer of two prefixes wins", "sixteen-bytes-of-s2n ticket", {3}},
      {"the shorter one is all that fits", "sixteen but different", {4}},
      {"a token as long as its prefix is no ticket of it: the next shorter one", "sixteen-bytes-of", {4}},
      {"a token as long as the shortest prefix", "sixt", {}},
      {"an unknown one", "unknown-unknown-unknown", {}},
      {"a prefix of three bytes was left out", "abcdefghijklmnop", {}},
      {"a whole head of 32 bytes may be that of a longer token", std::string(32, 'x'), {6}},
      {"31 bytes of it", std::string(31, 'x'), {}},
      {"an empty token", "", {}},
  };
  const PrefixStore store = Store();
  EXPECT_EQ(store.size(), 4U);
  for (const Row& row : rows) EXPECT_EQ(Raws(store.Find(Of(row.token_head))), row.owners) << row.name;
}

TEST(PrefixStore, WalksFromTheLongestMatchToTheShortest) {
  const PrefixStore store = Store();
  const std::string token = "sixteen-bytes-of-s2n ticket";
  size_t length = 33;
  std::vector<size_t> lengths;
  while (!store.FindShorterThan(Of(token), length, &length).empty()) lengths.push_back(length);
  EXPECT_THAT(lengths, ElementsAre(20, 16, 4));
}

TEST(PrefixStore, AnEmptyStoreFindsNothing) {
  EXPECT_THAT(Raws(PrefixStore().Find(Of("sixteen-bytes-of ticket"))), IsEmpty());
  EXPECT_THAT(Raws(PrefixStore(std::vector<PrefixStore::Entry>{}).Find(Of("sixteen-bytes-of ticket"))), IsEmpty());
}

TEST(PrefixStore, AgreesWithALinearSearch) {
  std::mt19937 random(3);
  // Two letters only, so that prefixes of prefixes and near misses abound.
  const auto text = [&](size_t length) {
    std::string result;
    for (size_t i = 0; i < length; ++i) result += "ab"[random() % 2];
    return result;
  };
  std::vector<PrefixStore::Entry> entries;
  std::map<std::string, std::set<uint16_t>> reference;
  for (int i = 0; i < 2000; ++i) {
    const std::string prefix = text(4 + random() % 12);
    const auto node = static_cast<uint16_t>(random() % 10);
    entries.push_back(Entry(prefix, node));
    reference[prefix].insert(node);
  }
  const PrefixStore store(entries);
  EXPECT_EQ(store.size(), reference.size());
  size_t hits = 0;
  for (int i = 0; i < 20'000; ++i) {
    const std::string token = text(1 + random() % 32);
    std::set<uint16_t> expected;
    for (size_t length = 1; length < token.size(); ++length) {
      if (const auto it = reference.find(token.substr(0, length)); it != reference.end()) expected = it->second;
    }
    const std::vector<uint16_t> found = Raws(store.Find(Of(token)));
    EXPECT_EQ(std::set<uint16_t>(found.begin(), found.end()), expected) << token;
    EXPECT_TRUE(std::is_sorted(found.begin(), found.end()));
    hits += !found.empty();
  }
  EXPECT_GT(hits, 1000U);
}

}  // namespace
}  // namespace hud
