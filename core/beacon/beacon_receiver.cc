// How a datagram is judged, each step counted, the first that fails ending it in silence:
//   shape → known node → MAC → nonce → epoch → replay window → quota → body → what the key allows.
// Before "nonce" nothing but counters changes, so neither forgeries nor anything recorded under another nonce can do more
// than draw a rate-limited CHALLENGE. `*IsFresh*`: what changes state was made for this nonce, by a holder of the node's
// key, and is seen for the first time.
#include "core/beacon/beacon_receiver.h"

#include <algorithm>
#include <map>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/rate_limit.h"
#include "core/base/replay_window.h"

namespace hud {
namespace {

using namespace std::chrono_literals;

// A report every 100 ms in four parts is 40 datagrams a second.
constexpr Duration kReportEach = 10ms;
constexpr int64_t kReportBurst = 200;
// 100,000 items a second, each datagram counted as kDatagramItems more. The sender's own pace stays below it.
constexpr Duration kTokenEach = 10us;
constexpr int64_t kTokenBurst = 50'000;
constexpr int64_t kDatagramItems = 8;
// Four challenges a second to the newest datagram of a node, and four more to all others.
constexpr Duration kChallengeEach = 250ms;
constexpr int64_t kChallengeBurst = 4;
constexpr Duration kAlarmEach = 250ms;
constexpr int64_t kAlarmBurst = 8;
constexpr Duration kSameAlarmAgain = 10s;

enum class Alarm : uint8_t { kSecondEpoch, kLowerEpoch, kPool, kAddress, kMalformed, kQuota, kWeight, kSlow };
constexpr size_t kAlarmKinds = 8;
constexpr int kTellingGaps = 3;
// Of senders that have not shown a right key there may be any number: one line in so much time for all of them.
constexpr Duration kStrangerAlarmAgain = 10s;

double ToSeconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

// Names are hashed before they are authenticated, but only looked up: a sender cannot add one.
struct NameHash {
  using is_transparent = void;
  size_t operator()(std::string_view name) const { return std::hash<std::string_view>()(name); }
};

// The parts of an agent's newest report, put together.
class ReportAssembly {
 public:
  bool IsOlder(const NodeReportPart& part) const { return parts_ != 0 && part.report_id < report_id_; }
  bool IsComplete() const { return parts_ != 0 && have_ == (1u << parts_) - 1; }

  // False if all parts together are more than a report may have. An overtaken part adds its share, not its health.
  bool Add(NodeReportPart part, bool overtaken) {
    if (parts_ == 0 || part.report_id != report_id_ || part.parts != parts_) {
      *this = ReportAssembly();
      report_id_ = part.report_id;
      parts_ = part.parts;
      overtaken = false;
    }
    NodeReport& share = part.report;
    if ((have_ >> part.part & 1) == 0) {
      have_ = static_cast<uint8_t>(have_ | 1u << part.part);
      std::move(share.pools.begin(), share.pools.end(), std::back_inserter(pools_));
      prefixes_.insert(prefixes_.end(), share.prefixes.begin(), share.prefixes.end());
    }
    if (!overtaken) latest_ = std::move(share);
    return pools_.size() <= limits::kMaxPoolsPerNode && prefixes_.size() <= limits::kMaxPrefixesPerNode &&
           !(IsComplete() && pools_.empty());
  }

  NodeReport Whole() const {
    NodeReport report = latest_;
    report.pools = pools_;
    report.prefixes = prefixes_;
    return report;
  }

 private:
  uint32_t report_id_ = 0;
  uint8_t parts_ = 0;  // 0: nothing yet
  uint8_t have_ = 0;   // a bit for each part
  std::vector<std::string> pools_;
  std::vector<TicketPrefix> prefixes_;
  NodeReport latest_;
};

// All that is known of one boot of one agent, under one nonce.
struct Epoch {
  uint64_t number = 0;  // 0: none heard
  bool dying = false;
  Instant last_valid{};
  bool has_report = false;
  Instant last_report{};
  uint64_t newest_report = 0;  // by its sequence
  ReplayWindow window;
  ReportAssembly assembly;
  uint64_t next_token = 1;
  // TOKENS bodies that came before what belongs in front of them, by their base.
  std::map<uint64_t, std::vector<uint8_t>> early_tokens;

  void ForgetTokens() {
    next_token = 1;
    early_tokens.clear();
  }
};

// A key of a node, and what its line allows.
struct Credential {
  explicit Credential(BeaconKey k) : key(std::move(k)), mac(key.secret) {}
  BeaconKey key;
  BeaconMac mac;
};

// A node: all that is known of it, whichever of its keys is used.
struct Peer {
  Peer() { last_alarm.fill(Instant::min()); }

  std::string node;
  std::vector<Credential> credentials;  // one; two while the key is being changed
  uint64_t nonce = 0;
  uint64_t least_epoch = 0;  // a lower epoch never takes over
  Epoch epoch;
  RateLimit reports{kReportEach, kReportBurst};
  RateLimit token_items{kTokenEach, kTokenBurst};
  RateLimit challenges_to_newest{kChallengeEach, kChallengeBurst};
  RateLimit challenges{kChallengeEach, kChallengeBurst};
  uint64_t rival_epoch = 0;  // the last one that was refused because another is alive
  Instant rival_since{};
  int long_gaps = 0;         // reports in a row that came only after `dead_after`
  std::pair<uint64_t, uint64_t> newest_challenged{};  // epoch and time of sending
  std::array<Instant, kAlarmKinds> last_alarm;

  void BeginAnew(uint64_t drawn_nonce) {
    nonce = drawn_nonce;
    epoch = Epoch();
  }
};

}  // namespace

struct BeaconReceiver::Impl {
  using Peers = std::unordered_map<std::string, std::unique_ptr<Peer>, NameHash, std::equal_to<>>;

  explicit Impl(uint64_t nonce) : process_nonce(nonce) {}

  // One datagram on its way through the checks.
  struct Question {
    Bytes datagram;
    const BeaconEnvelope& envelope;
    const SocketAddress& from;
    Instant now;
    Peer& peer;
    const Credential& credential;
  };

  // A nonce for each node, and a new one whenever its state begins anew: a key that was removed and comes back must not
  // believe what was recorded before.
  uint64_t DrawNonce(const Peer& peer) {
    std::array<uint8_t, 16> seed{};
    ++nonces_drawn;
    for (size_t i = 0; i < 8; ++i) {
      seed[i] = static_cast<uint8_t>(process_nonce >> (8 * i));
      seed[8 + i] = static_cast<uint8_t>(nonces_drawn >> (8 * i));
    }
    const auto mac = peer.credentials.front().mac.Compute(seed);
    uint64_t nonce = 0;
    for (size_t i = 0; i < 8; ++i) nonce = nonce << 8 | mac[i];
    return nonce == 0 ? 1 : nonce;  // 0 says "none known"
  }

  void RaiseAlarm(Peer& peer, Alarm kind, Instant now, const std::string& what) {
    Instant& last = peer.last_alarm[static_cast<size_t>(kind)];
    if (last != Instant::min() && now - last < kSameAlarmAgain) return;
    if (alarms.size() >= static_cast<size_t>(kAlarmBurst) || !alarm_rate.Take(now)) return;
    last = now;
    alarms.push_back(absl::StrCat("node ", peer.node, ": ", what));
  }

  // Half of `dead_after`, so that an agent which restarts speaks for its node again before that is missed.
  bool IsAlive(const Peer& peer, Instant now) const {
    return peer.epoch.number != 0 && !peer.epoch.dying && now - peer.epoch.last_valid < dead_after / 2;
  }

  // Does the first one speak on, after the second was first heard? Only then there are two, and it is no restart.
  bool AreTwo(Peer& peer, uint64_t second, Instant now) {
    if (peer.rival_epoch != second) peer.rival_epoch = second, peer.rival_since = now;
    return peer.epoch.last_valid > peer.rival_since;
  }

  void TellStranger(Instant now, std::string what) {
    ++strangers;
    if (stranger_told != Instant::min() && now - stranger_told < kStrangerAlarmAgain) return;
    stranger_told = now;
    if (strangers > 1) absl::StrAppend(&what, " (", strangers, " such datagrams since the last word on it)");
    strangers = 0;
    alarms.push_back(std::move(what));
  }

  void Answer(const Question& q, BeaconType type, Bytes body, BeaconAnswer* answer) {
    BeaconEnvelope envelope;
    envelope.direction = BeaconDirection::kToAgent;
    envelope.type = type;
    envelope.node = q.peer.node;
    envelope.epoch = q.envelope.epoch;
    envelope.nonce = q.peer.nonce;
    envelope.sequence = ++answers_sent;
    envelope.sent_micros = q.envelope.sent_micros;
    answer->datagram = SealBeacon(q.credential.mac, envelope, body);
    HUD_CHECK(answer->datagram.size() <= q.datagram.size());
  }

  // What an agent sends last is newer than anything recorded of it, to whichever proxy it was sent (its clock grows). So
  // recordings, however many, cannot keep the real agent from its challenge: one of its datagrams raises the mark above
  // them all, and then they can spend only the other allowance.
  void Challenge(const Question& q, BeaconAnswer* answer) {
    const std::pair<uint64_t, uint64_t> mark{q.envelope.epoch, q.envelope.sent_micros};
    const bool is_newest = mark > q.peer.newest_challenged;
    if (is_newest) q.peer.newest_challenged = mark;
    RateLimit& allowance = is_newest ? q.peer.challenges_to_newest : q.peer.challenges;
    if (!allowance.Take(q.now)) {
      ++stats.challenges_held_back;
      return;
    }
    ++stats.challenges_sent;
    const uint64_t held = std::max(q.peer.least_epoch, q.peer.epoch.number);
    Answer(q, BeaconType::kChallenge, WriteChallengeBody({q.envelope.sequence, held}), answer);
  }

  void Sync(const Question& q, BeaconAnswer* answer) {
    ++stats.syncs_sent;
    Answer(q, BeaconType::kSync, WriteSyncBody({q.peer.epoch.next_token, q.envelope.sequence}), answer);
  }

  // Does this epoch speak for the node? Its first valid beacon under a nonce makes it the node's.
  bool AdmitEpoch(const Question& q, BeaconAnswer* answer) {
    Peer& peer = q.peer;
    const uint64_t number = q.envelope.epoch;
    if (number == peer.epoch.number && number != 0) return true;
    if (number == 0 || number < std::max(peer.least_epoch, peer.epoch.number)) {
      ++stats.second_epoch;
      RaiseAlarm(peer, Alarm::kLowerEpoch, q.now,
                 absl::StrCat("an agent of an older epoch (", number, ") speaks from ", q.from.ToString(),
                              "; refused. Is a second agent running with the same key?"));
      return false;
    }
    if (peer.epoch.number == 0) {
      if (peer.least_epoch != 0 && number > peer.least_epoch) ++stats.takeovers;
      peer.epoch.number = peer.least_epoch = number;
      peer.epoch.last_valid = q.now;
      return true;
    }
    if (IsAlive(peer, q.now)) {
      ++stats.second_epoch;
      if (!AreTwo(peer, number, q.now)) return false;
      RaiseAlarm(peer, Alarm::kSecondEpoch, q.now,
                 absl::StrCat("a second agent (epoch ", number, ") speaks from ", q.from.ToString(), " while epoch ",
                              peer.epoch.number, " is alive; refused until that one is silent. Two agents share one key"));
      return false;
    }
    // The first is silent or has said that it dies. This datagram may be one that was refused while it lived, and recorded: only who
    // answers to a new nonce is believed.
    ++stats.stale_nonce;
    peer.BeginAnew(DrawNonce(peer));
    Challenge(q, answer);
    return false;
  }

  bool TakeQuota(const Question& q, RateLimit& limit, int64_t amount) {
    if (limit.Take(q.now, amount)) return true;
    ++stats.over_quota;
    RaiseAlarm(q.peer, Alarm::kQuota, q.now, "its agent sends more than its quota; the excess is dropped");
    return false;
  }

  bool Malformed(const Question& q) {
    ++stats.malformed;
    RaiseAlarm(q.peer, Alarm::kMalformed, q.now, "its agent sends what this version cannot read; are both up to date?");
    return false;
  }

  bool KeyAllows(const Question& q, const NodeReport& report) {
    for (const std::string& pool : report.pools) {
      if (q.credential.key.AllowsPool(pool)) continue;
      ++stats.refused_pool;
      RaiseAlarm(q.peer, Alarm::kPool, q.now,
                 absl::StrCat("its agent names pool '", pool, "', which the keys file does not allow it (pools=)"));
      return false;
    }
    const AddressVerdict verdict = q.credential.key.JudgeAddress(report.address, IsOurs(report.address));
    if (verdict == AddressVerdict::kAllowed) return true;
    ++stats.refused_address;
    const std::string address = report.address.ToString();
    const char* why = verdict == AddressVerdict::kOurs      ? ", where this proxy itself listens; if it is meant, the keys file has to name it (addresses="
                      : verdict == AddressVerdict::kSpecial ? ", which only this machine reaches; if it is meant, the keys file has to name it (addresses="
                                                            : ", which the keys file does not allow it (addresses=";
    RaiseAlarm(q.peer, Alarm::kAddress, q.now,
               absl::StrCat("its agent names address ", address, why,
                            verdict == AddressVerdict::kNotInLine ? "" : address, ")"));
    return false;
  }

  // Behind a wildcard all of loopback is ours, whatever its interface lists.
  bool IsOurs(const SocketAddress& address) const {
    const bool is_loopback = !address.IsUnix() && IsLoopback(address);
    return std::any_of(our_addresses.begin(), our_addresses.end(), [&](const SocketAddress& ours) {
      return ours == address || (is_loopback && ours.port() == address.port() && IsWildcard(ours));
    });
  }

  static bool IsLoopback(const SocketAddress& address) {
    const Bytes host = address.host_bytes();
    if (host.size() == 4) return host[0] == 127;
    return host.size() == 16 && host[15] == 1 && std::all_of(host.begin(), host.end() - 1, [](uint8_t b) { return b == 0; });
  }

  static bool IsWildcard(const SocketAddress& address) {
    const Bytes host = address.host_bytes();
    return !address.IsUnix() && std::all_of(host.begin(), host.end(), [](uint8_t byte) { return byte == 0; });
  }

  // A key's holder decides what it announces, and its share of the clients must not be what it wishes.
  void LimitWeight(const Question& q, NodeReport& report) {
    const uint16_t most = q.credential.key.most_weight;
    if (report.weight <= most) return;
    RaiseAlarm(q.peer, Alarm::kWeight, q.now,
               absl::StrCat("its agent announces a weight of ", report.weight, ", and its key allows ", most,
                            ", which is used; if more is meant, write weight=", report.weight, " into its line"));
    report.weight = most;
  }

  // A node that was silent for `dead_after` may have been declared dead, and its tokens withdrawn: ask for all of them.
  void NoteReport(Peer& peer, Instant now) {
    Epoch& epoch = peer.epoch;
    const bool was_missed = epoch.has_report && now - epoch.last_report >= dead_after;
    if (was_missed) epoch.ForgetTokens();
    peer.long_gaps = was_missed ? peer.long_gaps + 1 : 0;
    if (peer.long_gaps >= kTellingGaps) {
      RaiseAlarm(peer, Alarm::kSlow, now,
                 absl::StrCat("its agent speaks every ", ToSeconds(now - epoch.last_report), " s only, and is called silent after ",
                              ToSeconds(dead_after), " s: set the agent's beacon.every to a third of beacons.dead_after or less"));
    }
    epoch.has_report = true;
    epoch.last_report = now;
  }

  bool HandleReport(const Question& q, BeaconEvent* event, BeaconAnswer* answer) {
    if (!TakeQuota(q, q.peer.reports, 1)) return false;
    std::optional<NodeReportPart> part = ReadReportBody(BeaconBody(q.datagram));
    if (!part) return Malformed(q);
    if (!KeyAllows(q, part->report)) return false;
    LimitWeight(q, part->report);
    Epoch& epoch = q.peer.epoch;
    const bool overtaken = q.envelope.sequence < epoch.newest_report;
    const bool was_complete = epoch.assembly.IsComplete();
    if (epoch.dying || epoch.assembly.IsOlder(*part) || (overtaken && was_complete)) return Late();
    if (!epoch.assembly.Add(*std::move(part), overtaken)) {
      epoch.assembly = ReportAssembly();
      return Malformed(q);
    }
    ++stats.applied;
    epoch.newest_report = std::max(epoch.newest_report, q.envelope.sequence);
    if (!epoch.assembly.IsComplete()) return false;  // and no SYNC: the agent is not heard until all of it is
    NoteReport(q.peer, q.now);
    Sync(q, answer);
    event->kind = q.envelope.type == BeaconType::kAlive ? BeaconEvent::Kind::kAlive : BeaconEvent::Kind::kStillHere;
    event->report = epoch.assembly.Whole();
    return true;
  }

  bool HandleDying(const Question& q, BeaconAnswer* answer) {
    ++stats.applied;
    q.peer.epoch.dying = true;
    Sync(q, answer);
    return true;
  }

  bool HandleTokens(const Question& q, BeaconEvent* event, BeaconAnswer* answer) {
    const Bytes body = BeaconBody(q.datagram);
    const std::optional<TokenReport> tokens = ReadTokensBody(body);
    if (!tokens) return Malformed(q);
    const int64_t items = static_cast<int64_t>(tokens->items.size());
    if (!TakeQuota(q, q.peer.token_items, items + kDatagramItems)) return false;
    Epoch& epoch = q.peer.epoch;
    if (epoch.dying || !epoch.has_report) return Late();
    if (tokens->base > epoch.next_token) {
      if (!KeepForLater(epoch, tokens->base, body)) return Late();
    } else {
      ApplyTokens(epoch, *tokens, event);
      ApplyEarlyTokens(epoch, event);
    }
    ++stats.applied;
    Sync(q, answer);
    stats.tokens_applied += event->tokens.size();
    return !event->tokens.empty();
  }

  // Strictly in the order of their numbers, so that an addition never overtakes the withdrawal behind it.
  void ApplyTokens(Epoch& epoch, const TokenReport& tokens, BeaconEvent* event) {
    const uint64_t end = tokens.first + tokens.items.size();
    if (tokens.base > epoch.next_token || end <= epoch.next_token) return;
    for (uint64_t number = std::max(tokens.first, epoch.next_token); number < end; ++number) {
      const TokenItem& item = tokens.items[number - tokens.first];
      if (item.length != 0) event->tokens.push_back(item);
    }
    epoch.next_token = end;
  }

  // A SYNC for it says "arrived", so what is answered must be kept. No room: as if it were lost.
  bool KeepForLater(Epoch& epoch, uint64_t base, Bytes body) {
    if (epoch.early_tokens.empty()) ++stats.token_gaps;
    if (epoch.early_tokens.size() >= limits::kMaxTokenFlight) return false;
    epoch.early_tokens.try_emplace(base, body.begin(), body.end());
    return true;
  }

  void ApplyEarlyTokens(Epoch& epoch, BeaconEvent* event) {
    auto& early = epoch.early_tokens;
    while (!early.empty() && early.begin()->first <= epoch.next_token) {
      const std::optional<TokenReport> tokens = ReadTokensBody(early.begin()->second);
      HUD_CHECK(tokens);  // it was read when it came
      ApplyTokens(epoch, *tokens, event);
      early.erase(early.begin());
    }
  }

  bool Late() {
    ++stats.late;
    return false;
  }

  // For a datagram whose MAC is right.
  bool HandleAuthentic(const Question& q, BeaconEvent* event, BeaconAnswer* answer) {
    if (q.envelope.nonce != q.peer.nonce) {
      ++stats.stale_nonce;
      Challenge(q, answer);
      return false;
    }
    if (!AdmitEpoch(q, answer)) return false;
    if (!q.peer.epoch.window.Accept(q.envelope.sequence)) {
      ++stats.replayed;
      return false;
    }
    q.peer.epoch.last_valid = q.now;
    event->node = q.peer.node;
    event->ticket_group = q.credential.key.ticket_group;
    event->epoch = q.envelope.epoch;
    switch (q.envelope.type) {
      case BeaconType::kAlive:
      case BeaconType::kStillHere: return HandleReport(q, event, answer);
      case BeaconType::kTokens: event->kind = BeaconEvent::Kind::kTokens; return HandleTokens(q, event, answer);
      case BeaconType::kDying: event->kind = BeaconEvent::Kind::kDying; return HandleDying(q, answer);
      case BeaconType::kChallenge:
      case BeaconType::kSync: break;
    }
    HUD_CHECK(false);  // ReadBeaconEnvelope lets no other type through in this direction
    return false;
  }

  bool Handle(Bytes datagram, const SocketAddress& from, Instant now, BeaconEvent* event, BeaconAnswer* answer) {
    ++stats.received;
    const std::optional<BeaconEnvelope> envelope = ReadBeaconEnvelope(datagram);
    if (!envelope || envelope->direction != BeaconDirection::kToProxy) {
      ++stats.malformed;
      return false;
    }
    const auto peer = peers.find(envelope->node);
    if (peer == peers.end()) {
      ++stats.unknown_node;
      TellStranger(now, absl::StrCat("node ", std::string(envelope->node), ": beacons come from ", from.ToString(),
                                     ", and the keys file has no line for this node; dropped"));
      return false;
    }
    // The key id is no secret and no proof; comparing it first spares the hash for an agent that has an old key.
    const std::vector<Credential>& credentials = peer->second->credentials;
    const auto credential = std::find_if(credentials.begin(), credentials.end(), [&](const Credential& one) {
      return envelope->key_id == one.mac.key_id() && one.mac.Verify(datagram);
    });
    if (credential == credentials.end()) {
      ++stats.bad_mac;
      TellStranger(now, absl::StrCat("node ", peer->second->node, ": beacons come from ", from.ToString(),
                                     ", and are not signed with its key in the keys file; dropped. Was one of the two changed?"));
      return false;
    }
    return HandleAuthentic({datagram, *envelope, from, now, *peer->second, *credential}, event, answer);
  }

  void SetKeys(std::vector<BeaconKey> keys) {
    std::map<std::string, std::vector<Credential>> by_node;
    for (BeaconKey& key : keys) {
      const std::string node = key.node;
      by_node[node].emplace_back(std::move(key));
    }
    Peers next;
    for (auto& [node, credentials] : by_node) {
      const auto known = peers.find(node);
      std::unique_ptr<Peer> peer;
      if (known != peers.end() && HaveACommonKey(known->second->credentials, credentials)) peer = std::move(known->second);
      const bool is_new = peer == nullptr;
      if (is_new) peer = std::make_unique<Peer>();
      peer->node = node;
      peer->credentials = std::move(credentials);
      if (is_new) peer->BeginAnew(DrawNonce(*peer));
      next[node] = std::move(peer);
    }
    peers = std::move(next);
  }

  static bool HaveACommonKey(const std::vector<Credential>& a, const std::vector<Credential>& b) {
    return std::any_of(a.begin(), a.end(), [&](const Credential& one) {
      return std::any_of(b.begin(), b.end(), [&](const Credential& other) { return one.key.secret == other.key.secret; });
    });
  }

  void OnPause(Duration paused) {
    for (auto& [name, peer] : peers) {
      peer->epoch.last_valid += paused;
      peer->epoch.last_report += paused;
    }
  }

  void OnDoubt(Duration doubt) {
    for (auto& [name, peer] : peers) peer->epoch.last_report += doubt;
  }

  const uint64_t process_nonce;
  uint64_t nonces_drawn = 0;
  uint64_t answers_sent = 0;  // of this process, so that it grows for every agent
  Duration dead_after = 3s;
  Peers peers;
  std::vector<SocketAddress> our_addresses;
  BeaconStats stats;
  std::vector<std::string> alarms;
  Instant stranger_told = Instant::min();
  uint64_t strangers = 0;
  RateLimit alarm_rate{kAlarmEach, kAlarmBurst};
};

BeaconReceiver::BeaconReceiver(uint64_t nonce) : impl_(std::make_unique<Impl>(nonce)) {}
BeaconReceiver::~BeaconReceiver() = default;

void BeaconReceiver::SetKeys(std::vector<BeaconKey> keys) { impl_->SetKeys(std::move(keys)); }
void BeaconReceiver::SetDeadAfter(Duration dead_after) { impl_->dead_after = dead_after; }
void BeaconReceiver::SetOurAddresses(std::vector<SocketAddress> addresses) {
  impl_->our_addresses = std::move(addresses);
}
void BeaconReceiver::OnPause(Duration paused) { impl_->OnPause(paused); }
void BeaconReceiver::OnDoubt(Duration doubt) { impl_->OnDoubt(doubt); }

void BeaconReceiver::ForgetTokens(std::string_view node) {
  if (const auto peer = impl_->peers.find(node); peer != impl_->peers.end()) peer->second->epoch.ForgetTokens();
}

bool BeaconReceiver::Handle(Bytes datagram, const SocketAddress& from, Instant now, BeaconEvent* event,
                            BeaconAnswer* answer) {
  *event = BeaconEvent();
  answer->datagram.clear();
  return impl_->Handle(datagram, from, now, event, answer);
}

const BeaconStats& BeaconReceiver::stats() const { return impl_->stats; }
std::vector<std::string> BeaconReceiver::TakeAlarms() { return std::exchange(impl_->alarms, {}); }

}  // namespace hud
