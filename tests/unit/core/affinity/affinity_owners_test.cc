#include "core/affinity/affinity_owners.h"

#include <set>

#include "gtest/gtest.h"

namespace hud {
namespace {

NodeRef Node(uint16_t index, uint16_t generation) { return {static_cast<NodeIndex>(index), generation}; }

TEST(AffinityOwners, AnOwnerKeepsItsIdWhileItIsTheOneOfItsSlot) {
  AffinityOwners owners;
  const OwnerId a = owners.Admit(Node(1, 5));
  const OwnerId b = owners.Admit(Node(2, 5));
  EXPECT_NE(a, 0);
  EXPECT_NE(a, b);
  EXPECT_EQ(owners.Admit(Node(1, 5)), a);
  EXPECT_EQ(owners.NodeOf(a), Node(1, 5));
  EXPECT_EQ(owners.NodeOf(b), Node(2, 5));
}

TEST(AffinityOwners, AStaleOwnersIdIsFreeOnceItsLastEntryIsGone) {
  AffinityOwners owners;
  const OwnerId old = owners.Admit(Node(1, 5));
  owners.Count(old);
  owners.Count(old);
  const OwnerId next = owners.Admit(Node(1, 6));
  EXPECT_NE(next, old) << "entries name it still";
  EXPECT_TRUE(owners.IsStale(old));
  EXPECT_FALSE(owners.IsStale(next));
  EXPECT_EQ(owners.NodeOf(old), Node(1, 5));
  EXPECT_EQ(owners.EntriesOf(Node(1, 5)), 0U);
  owners.Uncount(old);
  EXPECT_NE(owners.Admit(Node(2, 1)), old);
  owners.Uncount(old);
  EXPECT_EQ(owners.Admit(Node(3, 1)), old);
  EXPECT_FALSE(owners.IsStale(old));
  EXPECT_EQ(owners.NodeOf(old), Node(3, 1));
}

TEST(AffinityOwners, AnIdThatIsGivenAgainDoesNotLookAsBefore) {
  AffinityOwners owners;
  const OwnerId id = owners.Admit(Node(1, 5));
  const uint64_t before = owners.rows()[id].Load(std::memory_order_relaxed);
  owners.Admit(Node(1, 6));
  ASSERT_EQ(owners.Admit(Node(1, 5)), id);
  EXPECT_NE(owners.rows()[id].Load(std::memory_order_relaxed), before);
}

TEST(AffinityOwners, CountsWhoHasEntries) {
  AffinityOwners owners;
  const OwnerId a = owners.Admit(Node(1, 1));
  const OwnerId b = owners.Admit(Node(2, 1));
  EXPECT_EQ(owners.owners_with_entries(), 0U);
  owners.Count(a);
  owners.Count(b);
  owners.Count(b);
  EXPECT_EQ(owners.owners_with_entries(), 2U);
  EXPECT_EQ(owners.EntriesOf(b), 2U);
  EXPECT_EQ(owners.EntriesOf(Node(2, 1)), 2U);
  owners.Uncount(a);
  EXPECT_EQ(owners.owners_with_entries(), 1U);
  owners.Admit(Node(2, 2));
  EXPECT_EQ(owners.owners_with_entries(), 0U) << "a stale owner has no share";
  owners.Uncount(b);
  owners.Uncount(b);
  EXPECT_EQ(owners.owners_with_entries(), 0U);
}

TEST(AffinityOwners, WhenAllIdsAreTakenANewOwnerIsNotAdmittedUntilOneIsFree) {
  AffinityOwners owners;
  std::set<OwnerId> ids;
  uint16_t generation = 0;
  while (const OwnerId id = owners.Admit(Node(7, generation))) {
    EXPECT_TRUE(ids.insert(id).second) << "an id with entries was given away";
    owners.Count(id);
    ++generation;
  }
  EXPECT_EQ(ids.size(), size_t{kOwnerIds} - 1);
  EXPECT_EQ(owners.Admit(Node(8, 1)), 0);
  EXPECT_EQ(owners.EntriesOf(Node(7, generation)), 0U);
  owners.Uncount(*ids.begin());
  EXPECT_EQ(owners.Admit(Node(8, 1)), *ids.begin());
}

}  // namespace
}  // namespace hud
