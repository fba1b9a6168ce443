#include "agentd/probe_session.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agentd/pem_file.h"
#include "core/net/local_error.h"
#include "core/os/fd.h"
#include "core/os/privileges.h"

namespace hud {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

// TLS 1.3 tickets come behind the handshake: the first one may wait for a busy server, the rest are in the same flight.
constexpr Duration kFirstTicketWait = milliseconds(500);
constexpr Duration kNextTicketWait = milliseconds(30);
constexpr size_t kMaxTokensPerSession = 8;
// Bytes of a server that speaks first (mail, databases) are read and dropped, but not for ever.
constexpr int kMaxReads = 32;
// A server's processes may each have a cache of their own: the next one to be met need not know the session.
constexpr int kTriesToResume = 4;
constexpr size_t kMaxPemBytes = 256 * 1024;

struct FreeSsl {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
};
using SslPtr = std::unique_ptr<SSL, FreeSsl>;
struct FreeSession {
  void operator()(SSL_SESSION* session) const { SSL_SESSION_free(session); }
};
using SessionPtr = std::unique_ptr<SSL_SESSION, FreeSession>;

// What the library's callbacks tell about the session that is running.
struct Observed {
  bool asked_for_certificate = false;
  std::vector<SeenToken> tokens;
};

int ObservedIndex() {
  static const int index = SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
  return index;
}

Observed& ObservedOf(SSL* ssl) { return *static_cast<Observed*>(SSL_get_ex_data(ssl, ObservedIndex())); }

SeenToken TokenIn(const SSL_SESSION* session) {
  SeenToken token;
  const unsigned char* bytes = nullptr;
  size_t length = 0;
  SSL_SESSION_get0_ticket(session, &bytes, &length);
  if (length == 0) {
    unsigned int id_length = 0;
    bytes = SSL_SESSION_get_id(session, &id_length);
    length = id_length;
    token.is_session_id = true;
  }
  token.length = static_cast<uint32_t>(length);
  token.lifetime_seconds = static_cast<uint32_t>(std::min(SSL_SESSION_get_ticket_lifetime_hint(session), 604800ul));
  std::copy_n(bytes, std::min(length, token.head.size()), token.head.begin());
  return token;
}

// Called at the end of a TLS 1.2 handshake, and for each TLS 1.3 ticket.
int OnNewSession(SSL* ssl, SSL_SESSION* session) {
  Observed& observed = ObservedOf(ssl);
  if (observed.tokens.size() < kMaxTokensPerSession) {
    SeenToken token = TokenIn(session);
    if (token.length > 0) observed.tokens.push_back(token);
  }
  return 0;  // the session is not kept: every probe is a new client
}

// Called when the server asks for a certificate, before the configured one is used.
int OnCertificateRequest(SSL* ssl, void*) {
  ObservedOf(ssl).asked_for_certificate = true;
  return 1;
}

enum class Wait : uint8_t { kReady, kTimedOut, kStopped };

Wait WaitFor(int fd, short events, int wake_fd, Instant deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now()).count();
    std::array<pollfd, 2> fds = {{{fd, events, 0}, {wake_fd, POLLIN, 0}}};
    const int n = ::poll(fds.data(), fds.size(), static_cast<int>(std::max<int64_t>(left, 0)));
    if (n > 0) return fds[1].revents != 0 ? Wait::kStopped : Wait::kReady;
    if (n == 0 && Clock::now() >= deadline) return Wait::kTimedOut;
  }
}

SessionResult Ended(SessionEnd end, std::string detail) {
  SessionResult result;
  result.end = end;
  result.detail = std::move(detail);
  return result;
}

SessionResult EndedWaiting(Wait wait, std::string_view doing, Duration timeout) {
  if (wait == Wait::kStopped) return Ended(SessionEnd::kStopped, "stopped");
  return Ended(SessionEnd::kTimedOut,
               absl::StrCat("no answer while ", absl::string_view(doing.data(), doing.size()), " within ",
                            std::chrono::duration_cast<milliseconds>(timeout).count(), " ms"));
}

// An empty descriptor: `result` says why.
Fd Connect(const SocketAddress& address, int wake_fd, Instant deadline, Duration timeout, SessionResult& result) {
  Fd fd(::socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  int error = fd ? 0 : errno;
  if (fd && ::connect(fd.get(), address.data(), address.size()) != 0) error = errno;
  if (error == EINPROGRESS) {
    const Wait wait = WaitFor(fd.get(), POLLOUT, wake_fd, deadline);
    if (wait != Wait::kReady) {
      result = EndedWaiting(wait, "connecting", timeout);
      return {};
    }
    socklen_t size = sizeof(error);
    ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  }
  if (error == 0) return fd;
  const bool refused = error == ECONNREFUSED || error == ENOENT;
  result = Ended(refused               ? SessionEnd::kRefused
                 : IsLocalError(error) ? SessionEnd::kLocalError
                                       : SessionEnd::kFailed,
                 absl::StrCat("cannot connect: ", std::strerror(error)));
  return {};
}

// The header that says "this connection is the sender's own": the server keeps the real addresses.
std::string_view PreambleOf(ProbeProxyProtocol protocol) {
  static constexpr char kV2Local[] = "\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
  switch (protocol) {
    case ProbeProxyProtocol::kOff:
      return {};
    case ProbeProxyProtocol::kV1:
      return "PROXY UNKNOWN\r\n";
    case ProbeProxyProtocol::kV2:
      return {kV2Local, sizeof(kV2Local) - 1};
  }
  return {};
}

bool IsAboutCertificates(int reason) {
  switch (reason) {
    case SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE:
    case SSL_R_SSLV3_ALERT_NO_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_TLSV1_ALERT_ACCESS_DENIED:
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
      return true;
    default:
      return false;
  }
}

bool IsNotTls(int reason) { return reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST; }

// A server that answers with an alert is there, and refuses this client only: for a name that it does not serve, for a
// protocol, for a version that it has not.
std::string ExplainAlert(int reason, const std::string& why, const std::string& server_name) {
  const std::string said = absl::StrCat("the server answers the probe with an alert (", why, "), so it is alive, but nothing is learnt");
  // What some servers (GnuTLS) say of a version that is switched off.
  const char* version = reason == SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE ? "; or is this version switched off?" : "";
  if (server_name.empty()) return absl::StrCat(said, ": set probe.sni to a name that it serves", version);
  if (reason == SSL_R_TLSV1_ALERT_NO_APPLICATION_PROTOCOL) return absl::StrCat(said, ": set probe.alpn to what it speaks");
  return absl::StrCat(said, ": does it serve the name ", server_name, " (probe.sni)", *version != 0 ? version : "?");
}

// Why SSL_do_handshake or SSL_read gave up.
SessionResult Diagnose(int ssl_error, int system_error, bool asked, const ProbeConfig& config,
                       const std::string& server_name) {
  const unsigned long error = ERR_peek_error();
  const int reason = ERR_GET_REASON(error);
  const char* text = ERR_reason_error_string(error);
  const std::string why = text != nullptr     ? text
                          : system_error != 0 ? std::strerror(system_error)
                                              : "connection closed";
  const bool tls_said_so = ssl_error == SSL_ERROR_SSL;

  // A server that asked for a certificate and then goes away, with whatever alert or none, missed the certificate.
  if (asked && (!tls_said_so || IsAboutCertificates(reason))) {
    return Ended(SessionEnd::kWantsCertificate,
                 config.client_certificate.empty()
                     ? absl::StrCat("the server wants a client certificate (", why,
                                    "): set probe.client_certificate and probe.client_key")
                     : absl::StrCat("the server did not accept ", config.client_certificate, " (", why, ")"));
  }
  if (tls_said_so && (reason == SSL_R_TLSV1_ALERT_PROTOCOL_VERSION || reason == SSL_R_UNSUPPORTED_PROTOCOL)) {
    return Ended(SessionEnd::kVersionRefused, "this version is switched off");
  }
  if (tls_said_so && IsNotTls(reason)) {
    return Ended(SessionEnd::kFailed,
                 absl::StrCat("the server does not answer with TLS (", why, "): is the port right?"));
  }
  if (!tls_said_so && config.proxy_protocol == ProbeProxyProtocol::kOff) {
    return Ended(SessionEnd::kFailed, absl::StrCat("the handshake was cut off (", why,
                                                   "); if the server expects a PROXY "
                                                   "header, set probe.proxy_protocol"));
  }
  if (tls_said_so && reason > SSL_AD_REASON_OFFSET) return Ended(SessionEnd::kAlert, ExplainAlert(reason, why, server_name));
  return Ended(SessionEnd::kFailed, absl::StrCat("the handshake failed (", why, ")"));
}

// Runs `step` until it is done, fails, or the deadline passes. Returns true when done.
template <typename Step>
bool Drive(SSL* ssl, const Step& step, int wake_fd, Instant deadline, Wait& wait, int& ssl_error, int& system_error) {
  for (;;) {
    ERR_clear_error();
    errno = 0;
    const int result = step();
    system_error = errno;
    if (result > 0) return true;
    ssl_error = SSL_get_error(ssl, result);
    if (ssl_error != SSL_ERROR_WANT_READ && ssl_error != SSL_ERROR_WANT_WRITE) return false;
    wait = WaitFor(SSL_get_fd(ssl), ssl_error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, wake_fd, deadline);
    if (wait != Wait::kReady) return false;
  }
}

// Reads until the tickets have come. An end or an alert here may still be the refusal of a client without certificate.
SessionResult AwaitTokens(SSL* ssl, const Observed& observed, int wake_fd, const ProbeConfig& config,
                          const std::string& server_name) {
  std::array<char, 4096> ignored;
  Instant deadline = Clock::now() + kFirstTicketWait;
  for (int reads = 0; reads < kMaxReads; ++reads) {
    const size_t before = observed.tokens.size();
    Wait wait = Wait::kReady;
    int ssl_error = SSL_ERROR_NONE, system_error = 0;
    const auto read = [&] {
      const int n = SSL_read(ssl, ignored.data(), static_cast<int>(ignored.size()));
      // A ticket alone yields no data: leave the loop so that the deadline for the rest is the short one.
      return n <= 0 && observed.tokens.size() > before ? 1 : n;
    };
    if (!Drive(ssl, read, wake_fd, deadline, wait, ssl_error, system_error)) {
      if (wait == Wait::kStopped) return Ended(SessionEnd::kStopped, "stopped");
      if (wait == Wait::kTimedOut || ssl_error == SSL_ERROR_ZERO_RETURN || !observed.tokens.empty()) break;
      SessionResult why = Diagnose(ssl_error, system_error, observed.asked_for_certificate, config, server_name);
      if (why.end == SessionEnd::kWantsCertificate) return why;
      break;
    }
    if (observed.tokens.size() > before) deadline = Clock::now() + kNextTicketWait;
  }
  return Ended(SessionEnd::kHandshakeDone, {});
}

std::string AlpnWire(const std::vector<std::string>& protocols) {
  std::string wire;
  for (const std::string& protocol : protocols) {
    wire.push_back(static_cast<char>(protocol.size()));
    wire += protocol;
  }
  return wire;
}

int OnTheWire(TlsVersion version) { return version == TlsVersion::kTls12 ? TLS1_2_VERSION : TLS1_3_VERSION; }

// SSL_set_tlsext_host_name, without the old-style cast of its macro.
bool SetServerName(SSL* ssl, std::string name) {
  return SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, name.data()) == 1;
}

SslPtr MakeSsl(SSL_CTX* context, int fd, const std::string& server_name, VersionRange versions,
               const std::vector<std::string>& alpn) {
  SslPtr ssl(SSL_new(context));
  if (!ssl) return ssl;
  const std::string protocols = AlpnWire(alpn);
  const bool ready =
      SSL_set_min_proto_version(ssl.get(), OnTheWire(versions.lowest)) == 1 &&
      SSL_set_max_proto_version(ssl.get(), OnTheWire(versions.highest)) == 1 && SSL_set_fd(ssl.get(), fd) == 1 &&
      (server_name.empty() || SetServerName(ssl.get(), server_name)) &&
      (protocols.empty() || SSL_set_alpn_protos(ssl.get(), reinterpret_cast<const unsigned char*>(protocols.data()),
                                                static_cast<unsigned>(protocols.size())) == 0);
  return ready ? std::move(ssl) : SslPtr();
}

// A PEM file that the configuration names, and where it does.
struct PemFile {
  PemKind kind;
  std::string key;   // "probe.client_key"
  std::string path;
  std::string at;    // "FILE:LINE"
};

absl::Status CannotUse(const PemFile& file, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat(file.at, file.at.empty() ? "" : ": ", file.key, ": ", file.path, ": ", why));
}

// What OpenSSL would say of no use to anybody, or at a FIFO that nobody writes to never.
absl::Status CheckPem(const PemFile& file) {
  const Fd fd(::open(file.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) {
    const bool denied = errno == EACCES;
    return CannotUse(file, absl::StrCat("cannot be opened: ", std::strerror(errno), denied ? absl::StrCat(" for ", CurrentUserName()) : ""));
  }
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return CannotUse(file, std::strerror(errno));
  if (!S_ISREG(info.st_mode)) return CannotUse(file, "is not a regular file; a PEM file is wanted");
  std::string text(kMaxPemBytes + 1, '\0');
  const ssize_t n = ::pread(fd.get(), text.data(), text.size(), 0);
  std::string wrong = n < 0                                      ? absl::StrCat("cannot be read: ", std::strerror(errno))
                      : static_cast<size_t>(n) > kMaxPemBytes    ? absl::StrCat("is longer than ", kMaxPemBytes, " bytes")
                                                                 : ExplainPem({text.data(), static_cast<size_t>(n)}, file.kind);
  OPENSSL_cleanse(text.data(), text.size());
  return wrong.empty() ? absl::OkStatus() : CannotUse(file, wrong);
}

absl::Status OpenSslCannotUse(const PemFile& file) {
  const unsigned long error = ERR_peek_last_error();
  const char* text = ERR_reason_error_string(error);
  std::string why = text != nullptr ? text : "unknown error";
  if (ERR_GET_REASON(error) == X509_R_KEY_VALUES_MISMATCH || ERR_GET_REASON(error) == X509_R_KEY_TYPE_MISMATCH) {
    why = "is not the key of the certificate in probe.client_certificate";
  }
  ERR_clear_error();
  return CannotUse(file, why);
}

absl::Status UseCertificate(SSL_CTX* context, const ProbeConfig& config) {
  if (config.client_certificate.empty()) return absl::OkStatus();
  const PemFile certificate{PemKind::kCertificate, "probe.client_certificate", config.client_certificate, config.client_certificate_at};
  const PemFile key{PemKind::kPrivateKey, "probe.client_key", config.client_key, config.client_key_at};
  for (const PemFile* file : {&certificate, &key}) {
    if (absl::Status status = CheckPem(*file); !status.ok()) return status;
  }
  // Whatever is encrypted is refused; OpenSSL would ask at the terminal.
  SSL_CTX_set_default_passwd_cb(context, [](char*, int, int, void*) { return -1; });
  ERR_clear_error();
  if (SSL_CTX_use_certificate_chain_file(context, certificate.path.c_str()) != 1) return OpenSslCannotUse(certificate);
  if (SSL_CTX_use_PrivateKey_file(context, key.path.c_str(), SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(context) != 1) {
    return OpenSslCannotUse(key);
  }
  return absl::OkStatus();
}

}  // namespace

void ProbeClient::FreeContext::operator()(ssl_ctx_st* context) const { SSL_CTX_free(context); }

absl::StatusOr<ProbeClient> ProbeClient::Make(const ProbeConfig& config, int wake_fd) {
  ProbeClient client(config, wake_fd);
  client.context_.reset(SSL_CTX_new(TLS_client_method()));
  SSL_CTX* context = client.context_.get();
  if (context == nullptr) return absl::ResourceExhaustedError("OpenSSL gives no context");
  SSL_CTX_set_verify(context, SSL_VERIFY_NONE, nullptr);
  // Old keys and digests in the server's certificate are not the probe's business.
  SSL_CTX_set_cipher_list(context, "ALL:!aNULL:!eNULL:@SECLEVEL=0");
  SSL_CTX_set_options(context, SSL_OP_LEGACY_SERVER_CONNECT);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_sess_set_new_cb(context, OnNewSession);
  SSL_CTX_set_cert_cb(context, OnCertificateRequest, nullptr);
  if (absl::Status used = UseCertificate(context, config); !used.ok()) return used;
  return client;
}

struct ProbeClient::WithoutTickets {
  SessionPtr session;  // of the first handshake; offered from then on
  bool resumed = false;
};

SessionResult ProbeClient::Run(const std::string& server_name, VersionRange versions, bool want_tokens) const {
  return Converse(server_name, versions, want_tokens, nullptr);
}

IdResumption ProbeClient::TryWithoutTickets(const std::string& server_name) const {
  constexpr VersionRange kTls12Only{TlsVersion::kTls12, TlsVersion::kTls12};
  WithoutTickets trial;
  if (Converse(server_name, kTls12Only, false, &trial).end != SessionEnd::kHandshakeDone) return IdResumption::kUnknown;
  unsigned int id_length = 0;
  if (trial.session) SSL_SESSION_get_id(trial.session.get(), &id_length);
  if (id_length == 0) return IdResumption::kNoId;
  for (int i = 0; i < kTriesToResume && !trial.resumed; ++i) {
    if (Converse(server_name, kTls12Only, false, &trial).end != SessionEnd::kHandshakeDone) break;
  }
  return trial.resumed ? IdResumption::kResumed : IdResumption::kUnknown;
}

SessionResult ProbeClient::Converse(const std::string& server_name, VersionRange versions, bool want_tokens,
                                    WithoutTickets* without_tickets) const {
  const Instant start = Clock::now();
  const Instant deadline = start + config_.timeout;
  SessionResult result;
  const Fd fd = Connect(config_.address, wake_fd_, deadline, config_.timeout, result);
  if (!fd) return result;
  const std::string_view preamble = PreambleOf(config_.proxy_protocol);
  if (!preamble.empty() && ::send(fd.get(), preamble.data(), preamble.size(), MSG_NOSIGNAL) < 0) {
    return Ended(SessionEnd::kFailed, absl::StrCat("cannot send the PROXY header: ", std::strerror(errno)));
  }
  const SslPtr ssl = MakeSsl(context_.get(), fd.get(), server_name, versions, config_.alpn);
  if (!ssl) return Ended(SessionEnd::kLocalError, "OpenSSL gives no session (is an ALPN or SNI name malformed?)");
  if (without_tickets != nullptr) {
    SSL_set_options(ssl.get(), SSL_OP_NO_TICKET);
    if (without_tickets->session) SSL_set_session(ssl.get(), without_tickets->session.get());
  }
  Observed observed;
  SSL_set_ex_data(ssl.get(), ObservedIndex(), &observed);

  Wait wait = Wait::kReady;
  int ssl_error = SSL_ERROR_NONE, system_error = 0;
  const bool done = Drive(
      ssl.get(), [&] { return SSL_connect(ssl.get()); }, wake_fd_, deadline, wait, ssl_error, system_error);
  const Duration handshake = Clock::now() - start;
  if (!done) {
    result = wait != Wait::kReady ? EndedWaiting(wait, "shaking hands", config_.timeout)
                                  : Diagnose(ssl_error, system_error, observed.asked_for_certificate, config_, server_name);
  } else {
    const TlsVersion version = SSL_version(ssl.get()) == TLS1_3_VERSION ? TlsVersion::kTls13 : TlsVersion::kTls12;
    result = Ended(SessionEnd::kHandshakeDone, {});
    // TLS 1.2 has told all it will tell. Where a certificate was asked for, TLS 1.3 refuses behind the handshake.
    if (version == TlsVersion::kTls13 && (want_tokens || observed.asked_for_certificate)) {
      result = AwaitTokens(ssl.get(), observed, wake_fd_, config_, server_name);
    }
    result.version = version;
    if (without_tickets != nullptr) {
      without_tickets->resumed = SSL_session_reused(ssl.get()) == 1;
      if (!without_tickets->session) without_tickets->session.reset(SSL_get1_session(ssl.get()));
    }
    if (result.end == SessionEnd::kHandshakeDone) SSL_shutdown(ssl.get());  // a server's log stays free of broken ends
  }
  ERR_clear_error();
  result.handshake = handshake;
  result.asked_for_certificate = observed.asked_for_certificate;
  result.tokens = std::move(observed.tokens);
  return result;
}

}  // namespace hud
