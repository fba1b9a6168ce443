#include "core/beacon/token_journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/core/beacon/beacon_pair.h"

namespace hud {
namespace {

using namespace beacon_test;

// "a" added, "-a" withdrawn, "." a number that holds nothing.
std::string Show(const std::vector<TokenItem>& items) {
  std::string text;
  for (const TokenItem& item : items) {
    if (!text.empty()) text += ' ';
    if (item.length == 0) text += '.';
    if (item.withdraw) text += '-';
    for (uint8_t byte : item.span()) text += static_cast<char>(byte);
  }
  return text;
}

TEST(TokenJournal, NumbersFromOneAndReadsFromAnyNumber) {
  TokenJournal journal(10);
  EXPECT_EQ(journal.last(), 0u);
  EXPECT_EQ(journal.first(), 1u);
  EXPECT_EQ(journal.Add(AsBytes("a"), 1h, kStart), 1u);
  EXPECT_EQ(journal.Add(AsBytes("b"), 1h, kStart), 2u);
  EXPECT_EQ(journal.Add(AsBytes("c"), 1h, kStart), 3u);
  EXPECT_EQ(Show(journal.Read(1, 100, kStart)), "a b c");
  EXPECT_EQ(Show(journal.Read(2, 1, kStart)), "b");
  EXPECT_EQ(Show(journal.Read(4, 100, kStart)), "");
}

TEST(TokenJournal, WhatCannotBeATokenIsRefused) {
  TokenJournal journal(10);
  EXPECT_EQ(journal.Add({}, 1h, kStart), 0u);
  EXPECT_EQ(journal.Add(AsBytes(std::string(33, 'x')), 1h, kStart), 0u);
  EXPECT_EQ(journal.Withdraw({}, kStart), 0u);
  EXPECT_EQ(journal.Add(AsBytes("a"), 0s, kStart), 0u);
  EXPECT_EQ(journal.last(), 0u);
  EXPECT_EQ(journal.Add(AsBytes(std::string(32, 'x')), 1h, kStart), 1u);
}

TEST(TokenJournal, RepeatsCostNothingUntilAQuarterOfTheLifeIsOver) {
  TokenJournal journal(10);
  journal.Add(AsBytes("a"), 1h, kStart);
  EXPECT_EQ(journal.Add(AsBytes("a"), 1h, kStart + 14min), 1u);
  EXPECT_EQ(journal.last(), 1u);
  EXPECT_EQ(journal.Add(AsBytes("a"), 1h, kStart + 15min), 2u);
  EXPECT_EQ(Show(journal.Read(1, 100, kStart + 15min)), "a") << "the first is not worth keeping";
  EXPECT_EQ(journal.Read(2, 1, kStart + 16min)[0].ttl_seconds, 59u * 60);
}

TEST(TokenJournal, AWithdrawalReplacesTheAddition) {
  TokenJournal journal(10);
  journal.Add(AsBytes("a"), 1h, kStart);
  journal.Add(AsBytes("b"), 1h, kStart);
  EXPECT_EQ(journal.Withdraw(AsBytes("b"), kStart), 3u);
  EXPECT_EQ(journal.Withdraw(AsBytes("b"), kStart), 3u);
  EXPECT_EQ(Show(journal.Read(1, 100, kStart)), "a . -b");
  EXPECT_EQ(journal.Add(AsBytes("b"), 1h, kStart), 4u);
  EXPECT_EQ(Show(journal.Read(1, 100, kStart)), "a . . b");
  EXPECT_EQ(journal.Withdraw(AsBytes("never seen"), kStart), 5u) << "a proxy may know it";
}

TEST(TokenJournal, WhatHasExpiredHoldsNothing) {
  TokenJournal journal(10);
  journal.Add(AsBytes("long"), 2h, kStart);
  journal.Add(AsBytes("short"), 1s, kStart);
  EXPECT_EQ(Show(journal.Read(1, 100, kStart + 999ms)), "long short");
  EXPECT_EQ(journal.Read(2, 1, kStart + 999ms)[0].ttl_seconds, 1u);
  EXPECT_EQ(Show(journal.Read(1, 100, kStart + 1s)), "long .");
  EXPECT_EQ(journal.Add(AsBytes("short"), 1s, kStart + 1s), 3u);
}

TEST(TokenJournal, TheOldestAreForgottenFirst) {
  TokenJournal journal(3);
  for (const char* token : {"a", "b", "c", "d", "e"}) journal.Add(AsBytes(token), 1h, kStart);
  EXPECT_EQ(journal.first(), 3u);
  EXPECT_EQ(journal.last(), 5u);
  EXPECT_EQ(Show(journal.Read(1, 100, kStart)), "c d e");
  EXPECT_EQ(journal.Add(AsBytes("a"), 1h, kStart), 6u) << "a forgotten one is new";
}

TEST(TokenJournal, StaysWithinItsCapacityWhateverComes) {
  TokenJournal journal(100);
  uint64_t state = 1;
  std::map<std::string, bool> truth;  // added, or withdrawn
  for (int i = 0; i < 100'000; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const std::string token = std::to_string((state >> 33) % 90);
    const Instant now = kStart + i * 1s;
    if ((state >> 60) == 0) {
      journal.Withdraw(AsBytes(token), now);
      truth[token] = false;
    } else {
      journal.Add(AsBytes(token), 10h, now);
      truth[token] = true;
    }
    ASSERT_LE(journal.size(), 100u);
    ASSERT_EQ(journal.first() + journal.size(), journal.last() + 1);
  }
  for (const TokenItem& item : journal.Read(1, 1000, kStart + 100'000s)) {
    if (item.length == 0) continue;
    EXPECT_EQ(truth.at({reinterpret_cast<const char*>(item.bytes.data()), item.length}), !item.withdraw);
  }
}

}  // namespace
}  // namespace hud
