// One TLS session of the agent with its own server, made to see which tokens the server hands out. The certificate is
// never verified: the probe is no client of the service, it sends nothing, and it trusts nothing it is told.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "agentd/configuration.h"
#include "agentd/ticket_classifier.h"
#include "core/base/types.h"

struct ssl_ctx_st;

namespace hud {

enum class SessionEnd : uint8_t {
  kHandshakeDone,
  kWantsCertificate,  // refused for want of a client certificate, or because of the one it was given: it does serve
  kVersionRefused,    // alert protocol_version: that version is switched off
  kAlert,             // any other alert: it does serve, but not this client
  kRefused,           // no listener
  kTimedOut,
  kFailed,            // reset, end, or bytes that are not TLS
  kLocalError,        // ours (no descriptor, no memory, no port): says nothing about the server
  kStopped,           // the agent is leaving
};

struct VersionRange {
  TlsVersion lowest = TlsVersion::kTls12;
  TlsVersion highest = TlsVersion::kTls13;
};

struct SessionResult {
  SessionEnd end = SessionEnd::kLocalError;
  TlsVersion version = TlsVersion::kTls13;  // of a handshake: what the server chose
  std::string detail;  // for a person: what went wrong and what to do; empty after a handshake
  Duration handshake{0};
  bool asked_for_certificate = false;
  std::vector<SeenToken> tokens;
};

enum class IdResumption : uint8_t {
  kUnknown,  // no handshake, or an id that was not resumed this time: other processes may have other caches
  kNoId,
  kResumed,
};

class ProbeClient {
 public:
  // Reads the client certificate and key, if any are configured. `wake_fd`: becomes readable when the agent is leaving.
  static absl::StatusOr<ProbeClient> Make(const ProbeConfig& config, int wake_fd);
  ProbeClient(ProbeClient&&) noexcept = default;

  // Never takes longer than the configured timeout and the time allowed to tickets. `want_tokens`: wait for tickets.
  SessionResult Run(const std::string& server_name, VersionRange versions, bool want_tokens) const;

  // What a TLS 1.2 client that knows no tickets gets. Several sessions, one after the other.
  IdResumption TryWithoutTickets(const std::string& server_name) const;

 private:
  struct WithoutTickets;
  SessionResult Converse(const std::string& server_name, VersionRange versions, bool want_tokens,
                         WithoutTickets* without_tickets) const;
  struct FreeContext {
    void operator()(ssl_ctx_st* context) const;
  };
  explicit ProbeClient(ProbeConfig config, int wake_fd) : config_(std::move(config)), wake_fd_(wake_fd) {}
  ProbeConfig config_;
  int wake_fd_;
  std::unique_ptr<ssl_ctx_st, FreeContext> context_;
};

}  // namespace hud
