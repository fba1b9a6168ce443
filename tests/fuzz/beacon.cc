// Whatever comes as a datagram, with a right MAC or without: no crash, no answer larger than its question, nothing out of
// bounds in an event. The first byte chooses: 0 raw, to a proxy; 1 raw, to an agent; 2 and above: the rest is the body of a
// message of that type, sealed as a believed agent (or proxy) would.
#include <cstdlib>

#include "core/base/check.h"
#include "core/beacon/beacon_receiver.h"
#include "core/beacon/beacon_sender.h"

namespace hud {
namespace {

constexpr Instant kStart{std::chrono::hours(1)};

BeaconSecret Secret() {
  BeaconSecret secret;
  secret.bytes.fill(7);
  return secret;
}

struct Proxy {
  Proxy() : receiver(1) {
    BeaconKey key;
    key.node = "n";
    key.secret = Secret();
    receiver.SetKeys({key});
  }
  std::vector<uint8_t> Handle(Bytes datagram) {
    BeaconEvent event;
    BeaconAnswer answer;
    const bool has_event = receiver.Handle(datagram, SocketAddress(), kStart, &event, &answer);
    HUD_CHECK(answer.datagram.size() <= datagram.size());
    if (has_event) Check(event);
    return answer.datagram;
  }
  static void Check(const BeaconEvent& event) {
    HUD_CHECK(event.node == "n");
    for (const TokenItem& item : event.tokens) HUD_CHECK(item.length >= 1 && item.length <= limits::kMaxTokenBytes);
    if (event.kind == BeaconEvent::Kind::kTokens) HUD_CHECK(!event.tokens.empty());
    if (event.kind != BeaconEvent::Kind::kAlive && event.kind != BeaconEvent::Kind::kStillHere) return;
    HUD_CHECK(!event.report.pools.empty() && event.report.pools.size() <= limits::kMaxPoolsPerNode);
    HUD_CHECK(event.report.prefixes.size() <= limits::kMaxPrefixesPerNode);
    HUD_CHECK(event.report.address.size() > 0 && event.report.weight <= 1000);
    for (const std::string& pool : event.report.pools) HUD_CHECK(IsBeaconName(pool));
    HUD_CHECK(!event.report.address.ToString().empty());
  }
  BeaconReceiver receiver;
};

NodeReport Report() {
  NodeReport report;
  report.address = *SocketAddress::Parse("10.0.0.1:443");
  report.pools = {"web"};
  return report;
}

// A body that is read must be written as it was read.
void CheckRoundTrip(Bytes body) {
  if (const auto part = ReadReportBody(body); part && part->parts == 1 && !part->report.pools.empty()) {
    std::vector<std::vector<uint8_t>> bodies;
    std::string why;
    HUD_CHECK(WriteReportBodies(part->report, part->report_id, &bodies, &why));
    if (bodies.size() == 1) {
      const auto again = ReadReportBody(bodies[0]);
      HUD_CHECK(again && again->report.pools == part->report.pools && again->report.prefixes == part->report.prefixes &&
                again->report.address == part->report.address && again->report_id == part->report_id);
    }
  }
  if (const auto tokens = ReadTokensBody(body)) {
    std::vector<uint8_t> again;
    HUD_CHECK(WriteTokensBody(tokens->base, tokens->first, tokens->items, &again) == tokens->items.size());
    HUD_CHECK(again.size() <= body.size() && std::equal(again.begin(), again.end(), body.begin()));
  }
}

std::vector<uint8_t> Seal(BeaconDirection direction, BeaconType type, const BeaconEnvelope& like, uint64_t sequence,
                          Bytes body) {
  BeaconEnvelope envelope = like;
  envelope.direction = direction;
  envelope.type = type;
  envelope.sequence = sequence;
  envelope.node = "n";
  return SealBeacon(BeaconMac(Secret()), envelope, body.first(std::min(body.size(), kMaxBeaconBodyBytes)));
}

// The envelope that an agent would use towards `proxy` by now.
BeaconEnvelope Learn(Proxy& proxy) {
  BeaconEnvelope envelope;
  envelope.epoch = 5;
  const auto challenge =
      proxy.Handle(Seal(BeaconDirection::kToProxy, BeaconType::kDying, envelope, 1, {}));
  const auto answer = ReadBeaconEnvelope(challenge);
  HUD_CHECK(answer && answer->type == BeaconType::kChallenge);
  envelope.nonce = answer->nonce;
  return envelope;
}

void FuzzProxy(BeaconType type, Bytes body) {
  CheckRoundTrip(body);
  Proxy proxy;
  const BeaconEnvelope envelope = Learn(proxy);
  std::vector<std::vector<uint8_t>> bodies;
  std::string why;
  HUD_CHECK(WriteReportBodies(Report(), 1, &bodies, &why));
  HUD_CHECK(!proxy.Handle(Seal(BeaconDirection::kToProxy, BeaconType::kAlive, envelope, 2, bodies[0])).empty());
  // The body in two halves as well, to reach what is kept for later.
  proxy.Handle(Seal(BeaconDirection::kToProxy, type, envelope, 3, body.subspan(body.size() / 2)));
  proxy.Handle(Seal(BeaconDirection::kToProxy, type, envelope, 4, body));
  proxy.Handle(Seal(BeaconDirection::kToProxy, type, envelope, 5, body.first(body.size() / 2)));
}

void FuzzAgent(BeaconType type, Bytes body) {
  TokenJournal journal(100);
  const uint8_t token[] = {1, 2, 3};
  journal.Add(token, std::chrono::hours(1), kStart);
  BeaconSender agent(AgentKey{"n", Secret()}, 5, &journal, std::chrono::seconds(1));
  HUD_CHECK(agent.SetReport(Report()).ok());
  Proxy proxy;
  for (int turn = 0; turn < 3; ++turn) {
    for (const auto& datagram : agent.Poll(kStart, 100)) agent.Handle(proxy.Handle(datagram), kStart);
  }
  HUD_CHECK(agent.Confirmed());
  BeaconEnvelope envelope = Learn(proxy);
  if (body.size() > 16) envelope.sent_micros = body[16] * 0x0101010101010101u;
  agent.Handle(Seal(BeaconDirection::kToAgent, type, envelope, UINT64_MAX, body), kStart);
  HUD_CHECK(agent.Poll(kStart + std::chrono::seconds(5), 100).size() <= 101);
  agent.NextDeadline();
}

}  // namespace
}  // namespace hud

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hud;
  if (size == 0) return 0;
  const Bytes rest(data + 1, size - 1);
  switch (data[0] % 8) {
    case 0: Proxy().Handle(rest); break;
    case 1: {
      BeaconSender agent(AgentKey{"n", Secret()}, 5, nullptr, std::chrono::seconds(1));
      agent.Handle(rest, kStart);
      break;
    }
    case 2: FuzzProxy(BeaconType::kAlive, rest); break;
    case 3: FuzzProxy(BeaconType::kStillHere, rest); break;
    case 4: FuzzProxy(BeaconType::kTokens, rest); break;
    case 5: FuzzProxy(BeaconType::kDying, rest); break;
    case 6: FuzzAgent(BeaconType::kChallenge, rest); break;
    case 7: FuzzAgent(BeaconType::kSync, rest); break;
  }
  return 0;
}
