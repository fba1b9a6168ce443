#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "core/affinity/token_lookup.h"
#include "core/base/check.h"
#include "core/net/local_error.h"
#include "core/net/proxy_protocol.h"
#include "core/tls/tls_record.h"
#include "ring/loop/lent_buffer.h"
#include "ring/pass_through/pass_through.h"

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

void PassThrough::BeginHello(Connection& c, size_t used) {
  Enter(c, ConnectionState::kHello);
  c.context = std::make_unique<HelloContext>();
  if (options_.log_connections) {
    c.log = std::make_unique<LogContext>();
    c.log->id = next_id_++;
    (void)ClientOf(c);  // a client that is gone can no longer be asked
  }
  const ListenerView& listener = ListenerOf(c);
  // Where a balancer speaks for its clients, it is they who are counted.
  if (!PeerIsBelieved(c) || !IsWelcome(c, admission_.Welcome(c, used, listener.accept_proxy_protocol.enabled))) return;
  timers_.Set(c, loop_.now() + listener.hello_deadline);
  AwaitClient(c, Expected::kNow);
}

// False: closed; here and below.
bool PassThrough::IsWelcome(Connection& c, Admission::Verdict verdict) {
  if (verdict == Admission::Verdict::kWelcome) return true;
  Terminate(c, verdict == Admission::Verdict::kSourceLimit ? CloseReason::kSourceLimit : CloseReason::kOverLimit);
  return false;
}

// Asked for when somebody wants to know: it is a system call.
const InternetEndpoint& PassThrough::ClientOf(Connection& c) {
  if (!c.client_address) c.client_address = InternetEndpoint(loop_.calls().PeerOf(c.fd(Side::kClient)));
  return c.client_address;
}

// A unix socket's path, too, where a PROXY header names one.
SocketAddress PassThrough::ClientAddress(Connection& c) {
  if (c.context->proxied_client.family() != AF_UNSPEC) return c.context->proxied_client;
  return ClientOf(c).ToSocketAddress();
}

void PassThrough::AwaitClient(Connection& c, Expected expected) {
  loop_.Recv(c.end(Side::kClient), c.TagOf(Op::kRecv, Side::kClient), expected);
}

// Before it is relayed a client is received from, one receive after the other; what a rejected one says is thrown away.
void PassThrough::OnClient(Connection& c, Tag tag, const Completion& completion) {
  loop_.Settle(c.end(tag.side), tag, completion);
  if (completion.result > 0) {
    const LentBuffer lent(loop_.ring(), completion.buffer);
    if (c.state == ConnectionState::kRejecting) return AwaitClient(c, Expected::kLater);
    return OnHelloBytes(c, loop_.ring().BufferBytes(completion.buffer).first(static_cast<uint32_t>(completion.result)));
  }
  if (completion.has_buffer) loop_.ring().ReturnBuffer(completion.buffer);
  if (completion.result == -ENOBUFS) {
    counters_.buffers_exhausted.Add();
    starved_.push_back(tag.Pack());
    c.from(Side::kClient).starved = true;
    return;
  }
  if (c.state == ConnectionState::kRejecting) return Terminate(c, CloseReason::kUnrecognizedName);
  const bool client_left = completion.result == 0 || EndsAConnection(-completion.result);
  Terminate(c, client_left ? CloseReason::kClientGoneInHello : CloseReason::kLocalError);
}

void PassThrough::OnHelloBytes(Connection& c, Bytes bytes) {
  c.last_activity = loop_.now();
  if (!admission_.HasHelloRoom(c, bytes.size())) {
    counters_.hello_budget_refused.Add();
    return Terminate(c, CloseReason::kOverLimit);
  }
  if (!memory_.Append(c.context->bytes, bytes)) throw std::bad_alloc();
  admission_.CountHelloBytes(bytes.size());
  JudgeHello(c);
}

// A listener that takes PROXY headers from some peers only is for those only: whoever else could connect would have to be
// served under a name of its own choice, or without the header that the listener demands. False: closed.
bool PassThrough::PeerIsBelieved(Connection& c) {
  const AcceptProxyProtocol& proxies = ListenerOf(c).accept_proxy_protocol;
  if (!proxies.enabled || proxies.from.empty()) return true;
  const InternetEndpoint& peer = ClientOf(c);
  if (peer && proxies.Believes(peer.ToSocketAddress())) return true;
  // Who has no address any more has gone.
  Terminate(c, peer ? CloseReason::kUntrustedPeer : CloseReason::kClientGoneInHello);
  return false;
}

// On a listener that expects it: the PROXY header comes off the front of what is held. False: not yet, or closed.
bool PassThrough::TakeProxyHeader(Connection& c) {
  if (!PeerIsBelieved(c)) return false;  // a reload may have changed who is
  PrivateBytes& held = c.context->bytes;
  ProxyHeader header;
  switch (ParseProxyHeader(held.unsent(), header)) {
    case ProxyHeaderVerdict::kNeedMore: AwaitClient(c, Expected::kLater); return false;
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
  admission_.GiveBackHelloBytes(header.bytes_used);
  std::memmove(held.data.get(), held.data.get() + header.bytes_used, held.size);
  c.context->proxy_header_taken = true;
  return IsWelcome(c, admission_.SourceIsKnown(c));
}

void PassThrough::JudgeHello(Connection& c) {
  const ListenerView& listener = ListenerOf(c);
  if (listener.accept_proxy_protocol.enabled && !c.context->proxy_header_taken && !TakeProxyHeader(c)) return;
  const Bytes held = c.context->bytes.unsent();
  const HelloVerdict verdict = ParseClientHello(held, listener.hello_max_bytes, c.context->hello);
  if (verdict == HelloVerdict::kNeedMore) return AwaitClient(c, Expected::kLater);
  HelloDone(c, verdict);
}

void PassThrough::HelloDone(Connection& c, HelloVerdict verdict) {
  c.hello_verdict = verdict;
  c.hello_microseconds = Microseconds(loop_.now() - c.accepted_at);
  counters_.listeners[Raw(c.listener)].hello_time.Add(c.hello_microseconds);
  ClientHello& hello = c.context->hello;
  switch (verdict) {
    case HelloVerdict::kComplete: NoteHello(c); break;
    case HelloVerdict::kNotTls:
      counters_.hello_not_tls.Add();
      c.not_tls = ClassifyNotTls(c.context->bytes.unsent());
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
  c.route = ChooseRoute(ListenerOf(c), c.context->parsed ? &hello : nullptr,
                        c.context->bytes.unsent());
  if (c.route.pool == PoolIndex::kNone) return Reject(c);
  BeginDial(c);
}

void PassThrough::NoteHello(Connection& c) {
  const ClientHello& hello = c.context->hello;
  counters_.hello_complete.Add();
  c.context->parsed = true;
  if (c.log) c.log->server_name = CopyOf(hello.server_name());
  c.tls13 = hello.offers_tls13;
  c.early_data = hello.early_data;
  c.ech = hello.ech;
  if (const TokenCandidates candidates = CandidatesOf(hello); candidates.count > 0) {
    c.token_digest = static_cast<uint32_t>(SipHash(options_.digest_key, candidates.items[0].token->head_bytes()));
  }
}

// Is it one connection in a circle?
bool PassThrough::ComesRound(Connection& c) {
  c.loop_cell = places_.loops().CellOf(c.context->bytes.unsent());
  return places_.loops().Enter(c.loop_cell) > LoopGuard::kMost;
}

// No route and no default pool: a TLS client is told why, then given a moment to end by itself, because closing with
// its bytes unread would reset the connection and could destroy the alert on its way.
void PassThrough::Reject(Connection& c) {
  Enter(c, ConnectionState::kRejecting);
  const int client = c.fd(Side::kClient);
  if (c.hello_verdict == HelloVerdict::kComplete || c.hello_verdict == HelloVerdict::kMalformed) {
    (void)loop_.calls().Send(client, tls::kUnrecognizedNameAlert);
  }
  loop_.calls().EndStream(client);
  timers_.Set(c, loop_.now() + kRejectingTime);
  AwaitClient(c, Expected::kLater);
}

}  // namespace hud
