#include "control/nodes/tls_handshake.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>

namespace hud {
namespace {

// An alert of the peer is an error of the library with a reason from here on (SSL_R_SSLV3_ALERT_… in sslerr.h).
constexpr int kFirstAlertReason = 1000;
// A server that speaks first (or without end) is heard for so many reads a step.
constexpr int kMostReads = 16;

// SSL_set_tlsext_host_name, without the old-style cast of its macro.
bool SetServerName(SSL* ssl, std::string name) {
  return SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, name.data()) == 1;
}

}  // namespace

TlsClient::TlsClient() : context_(SSL_CTX_new(TLS_client_method())) {
  if (context_ == nullptr) return;
  SSL_CTX_set_verify(context_, SSL_VERIFY_NONE, nullptr);
  // Old keys and digests in the server's certificate are not a check's business.
  SSL_CTX_set_cipher_list(context_, "ALL:!aNULL:!eNULL:@SECLEVEL=0");
  SSL_CTX_set_options(context_, SSL_OP_LEGACY_SERVER_CONNECT);
  SSL_CTX_set_session_cache_mode(context_, SSL_SESS_CACHE_OFF);
}

TlsClient::~TlsClient() { SSL_CTX_free(context_); }

std::unique_ptr<TlsHandshake> TlsClient::Begin(int fd, const std::string& server_name) const {
  SSL* ssl = context_ != nullptr ? SSL_new(context_) : nullptr;
  if (ssl == nullptr) return nullptr;
  auto handshake = std::make_unique<TlsHandshake>(ssl);
  const bool ready = SSL_set_fd(ssl, fd) == 1 && (server_name.empty() || SetServerName(ssl, server_name));
  return ready ? std::move(handshake) : nullptr;
}

TlsHandshake::~TlsHandshake() { SSL_free(ssl_); }

TlsHandshake::Step TlsHandshake::Continue() {
  ERR_clear_error();
  const int result = SSL_connect(ssl_);
  if (result == 1) return Step::kDone;
  const int error = SSL_get_error(ssl_, result);
  if (error == SSL_ERROR_WANT_READ) return Step::kWantsToRead;
  if (error == SSL_ERROR_WANT_WRITE) return Step::kWantsToWrite;
  const bool is_alert = error == SSL_ERROR_SSL && ERR_GET_REASON(ERR_peek_error()) >= kFirstAlertReason;
  ERR_clear_error();
  return is_alert ? Step::kAlert : Step::kNoTls;
}

TlsHandshake::Step TlsHandshake::Close() {
  if (!said_goodbye_) {
    ERR_clear_error();
    const int result = SSL_shutdown(ssl_);
    if (result < 0 && SSL_get_error(ssl_, result) == SSL_ERROR_WANT_WRITE) return Step::kWantsToWrite;
    ERR_clear_error();
    said_goodbye_ = true;
    ::shutdown(SSL_get_fd(ssl_), SHUT_WR);
  }
  std::array<char, 4096> ignored;
  for (int reads = 0; reads < kMostReads; ++reads) {
    const ssize_t count = ::recv(SSL_get_fd(ssl_), ignored.data(), ignored.size(), MSG_DONTWAIT);
    if (count > 0 || (count < 0 && errno == EINTR)) continue;
    return count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? Step::kWantsToRead : Step::kDone;
  }
  return Step::kWantsToRead;
}

}  // namespace hud
