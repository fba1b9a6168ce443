// One TLS handshake as a client, on a connected socket that does not block: what a check asks of a server. It verifies
// nothing and keeps nothing: that the server answers is all that is wanted.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

struct ssl_ctx_st;
struct ssl_st;

namespace hud {

class TlsHandshake;

class TlsClient {
 public:
  TlsClient();
  ~TlsClient();

  // Null when there is no memory. `fd` outlives the handshake. `server_name` may be empty.
  std::unique_ptr<TlsHandshake> Begin(int fd, const std::string& server_name) const;

 private:
  ssl_ctx_st* context_;
};

class TlsHandshake {
 public:
  enum class Step : uint8_t {
    kWantsToRead,
    kWantsToWrite,
    kDone,   // handshake: complete. Close: the server has ended its stream, or cannot be spoken to any more
    kAlert,  // the server speaks TLS, and refuses this client
    kNoTls,  // it said something else, or nothing before it ended
  };

  explicit TlsHandshake(ssl_st* ssl) : ssl_(ssl) {}
  ~TlsHandshake();
  TlsHandshake(const TlsHandshake&) = delete;
  TlsHandshake& operator=(const TlsHandshake&) = delete;

  Step Continue();
  // After kDone: says close_notify, then reads what comes and throws it away. A server whose client ends like this has
  // nothing to complain of.
  Step Close();

 private:
  ssl_st* ssl_;
  bool said_goodbye_ = false;
};

}  // namespace hud
