#include <algorithm>
#include <cstring>
#include <new>

#include "core/affinity/token_lookup.h"
#include "core/base/check.h"
#include "core/net/proxy_protocol.h"
#include "core/tls/tls_record.h"
#include "ring/worker.h"

namespace hud {
namespace {

constexpr Duration kRejectingTime = std::chrono::seconds(1);

std::unique_ptr<char[]> CopyOf(std::string_view text) {
  auto copy = std::make_unique_for_overwrite<char[]>(text.size() + 1);
  std::memcpy(copy.get(), text.data(), text.size());
  copy[text.size()] = 0;
  return copy;
}

}  // namespace

void Worker::BeginHello(Connection& c, size_t used) {
  Enter(c, ConnectionState::kHello);
  c.context = std::make_unique<HelloContext>();
  if (options_.log_connections) {
    c.log = std::make_unique<LogContext>();
    c.log->id = next_id_++;
    (void)ClientEndpoint(c);  // a client that is gone can no longer be asked
  }
  if (!PeerIsBelieved(c) || !Welcome(c, used)) return;
  const ListenerView& listener = table_->listeners[Raw(c.listener)];
  SetTimer(c, now_ + listener.hello_deadline);
  RequestRecv(c, Side::kClient, Expected::kNow);
}

// Asked for when somebody wants to know: it is a system call.
const InternetEndpoint& Worker::ClientEndpoint(Connection& c) {
  if (!c.client_address) c.client_address = InternetEndpoint(calls_.PeerOf(c.fd[Index(Side::kClient)].get()));
  return c.client_address;
}

// A unix socket's path, too, where a PROXY header names one.
SocketAddress Worker::ClientAddress(Connection& c) {
  if (c.context->proxied_client.family() != AF_UNSPEC) return c.context->proxied_client;
  return ClientEndpoint(c).ToSocketAddress();
}

// Appends to what is held of the client's first bytes; false when the memory for them is used up, and nobody makes room.
bool Worker::Hold(Connection& c, Bytes bytes) {
  const size_t held = held_hello_bytes_ + others_hello_bytes_ + bytes.size();
  if (held > places_.limits().hello_bytes && !MakeHelloRoom(c, bytes.size())) return false;
  if (!Append(c.context->bytes, bytes)) throw std::bad_alloc();
  held_hello_bytes_ += bytes.size();
  return true;
}

void Worker::OnHelloBytes(Connection& c, Bytes bytes) {
  c.last_activity = now_;
  if (!Hold(c, bytes)) {
    counters_.hello_budget_refused.Add();
    return Terminate(c, CloseReason::kOverLimit);
  }
  JudgeHello(c);
}

// A listener that takes PROXY headers from some peers only is for those only: whoever else could connect would have to be
// served under a name of its own choice, or without the header that the listener demands. False: closed.
bool Worker::PeerIsBelieved(Connection& c) {
  const AcceptProxyProtocol& proxies = table_->listeners[Raw(c.listener)].accept_proxy_protocol;
  if (!proxies.enabled || proxies.from.empty()) return true;
  const InternetEndpoint& peer = ClientEndpoint(c);
  if (peer && proxies.Believes(peer.ToSocketAddress())) return true;
  // Who has no address any more has gone.
  Terminate(c, peer ? CloseReason::kUntrustedPeer : CloseReason::kClientGoneInHello);
  return false;
}

// On a listener that expects it: the PROXY header comes off the front of what is held. False: not yet, or closed.
bool Worker::TakeProxyHeader(Connection& c) {
  if (!PeerIsBelieved(c)) return false;  // a reload may have changed who is
  PrivateBytes& held = c.context->bytes;
  ProxyHeader header;
  switch (ParseProxyHeader(held.rest(), header)) {
    case ProxyHeaderVerdict::kNeedMore: RequestRecv(c, Side::kClient, Expected::kLater); return false;
    case ProxyHeaderVerdict::kMalformed: Terminate(c, CloseReason::kProxyHeader); return false;
    case ProxyHeaderVerdict::kComplete: break;
  }
  if (header.source.family() != AF_UNSPEC) {
    c.context->proxied_client = header.source;
    c.context->proxied_local = header.destination;
    if (c.log) c.log->balancer = c.client_address;
    // A unix socket's path has no place there: then the client is the balancer that spoke for it.
    if (const InternetEndpoint client(header.source); client) c.client_address = client;
  }
  held.size -= static_cast<uint32_t>(header.bytes_used);
  held_hello_bytes_ -= header.bytes_used;
  std::memmove(held.data.get(), held.data.get() + header.bytes_used, held.size);
  c.context->proxy_header_taken = true;
  return SourceIsKnown(c);
}

void Worker::JudgeHello(Connection& c) {
  const ListenerView& listener = table_->listeners[Raw(c.listener)];
  if (listener.accept_proxy_protocol.enabled && !c.context->proxy_header_taken && !TakeProxyHeader(c)) return;
  const Bytes held = c.context->bytes.rest();
  const HelloVerdict verdict = ParseClientHello(held, listener.hello_max_bytes, c.context->hello);
  if (verdict == HelloVerdict::kNeedMore) return RequestRecv(c, Side::kClient, Expected::kLater);
  HelloDone(c, verdict);
}

void Worker::HelloDone(Connection& c, HelloVerdict verdict) {
  c.hello_verdict = verdict;
  c.hello_microseconds = Microseconds(now_ - c.accepted_at);
  counters_.listeners[Raw(c.listener)].hello_time.Add(c.hello_microseconds);
  ClientHello& hello = c.context->hello;
  switch (verdict) {
    case HelloVerdict::kComplete:
      counters_.hello_complete.Add();
      c.context->parsed = true;
      if (c.log) c.log->server_name = CopyOf(hello.server_name());
      c.tls13 = hello.offers_tls13;
      c.early_data = hello.early_data;
      c.ech = hello.ech;
      if (const TokenCandidates candidates = CandidatesOf(hello); candidates.count > 0) {
        c.token_digest = static_cast<uint32_t>(SipHash(options_.digest_key, candidates.items[0].token->head_bytes()));
      }
      break;
    case HelloVerdict::kNotTls:
      counters_.hello_not_tls.Add();
      c.not_tls = ClassifyNotTls(c.context->bytes.rest());
      counters_.not_tls[static_cast<size_t>(c.not_tls)].Add();
      break;
    case HelloVerdict::kMalformed: counters_.hello_malformed.Add(); break;
    case HelloVerdict::kTooLarge:
      counters_.hello_too_large.Add();
      return Terminate(c, CloseReason::kHelloTooLarge);
    case HelloVerdict::kNeedMore: HUD_CHECK(false);
  }
  if (verdict == HelloVerdict::kComplete || verdict == HelloVerdict::kMalformed) {
    c.hello_flaw = hello.flaw;
    if (hello.flaw != HelloFlaw::kNone) counters_.hello_flaws[static_cast<size_t>(hello.flaw)].Add();
  }
  if (verdict == HelloVerdict::kComplete && ComesRound(c)) return Terminate(c, CloseReason::kLoop);
  c.route = ChooseRoute(table_->listeners[Raw(c.listener)], c.context->parsed ? &hello : nullptr,
                        c.context->bytes.rest());
  if (c.route.pool == PoolIndex::kNone) return Reject(c);
  BeginDial(c);
}

// Is it one connection in a circle?
bool Worker::ComesRound(Connection& c) {
  c.loop_cell = places_.loops().CellOf(c.context->bytes.rest());
  return places_.loops().Enter(c.loop_cell) > LoopGuard::kMost;
}

// No route and no default pool: a TLS client is told why, then given a moment to end by itself, because closing with
// its bytes unread would reset the connection and could destroy the alert on its way.
void Worker::Reject(Connection& c) {
  Enter(c, ConnectionState::kRejecting);
  const int client = c.fd[Index(Side::kClient)].get();
  if (c.hello_verdict == HelloVerdict::kComplete || c.hello_verdict == HelloVerdict::kMalformed) {
    (void)calls_.Send(client, tls::kUnrecognizedNameAlert);
  }
  calls_.EndStream(client);
  SetTimer(c, now_ + kRejectingTime);
  RequestRecv(c, Side::kClient, Expected::kLater);
}

}  // namespace hud
