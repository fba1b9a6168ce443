#include "agentd/pem_file.h"

#include <gtest/gtest.h>

namespace hud {
namespace {

constexpr PemKind kCertificate = PemKind::kCertificate;
constexpr PemKind kKey = PemKind::kPrivateKey;

std::string Block(const std::string& label, const std::string& body = "TUlJ\nQg==\n") {
  return "-----BEGIN " + label + "-----\n" + body + "-----END " + label + "-----\n";
}

TEST(APemFile, IsExplainedWithTheLine) {
  const struct {
    const char* name;
    std::string text;
    PemKind wanted;
    const char* wrong;
  } rows[] = {
      {"a certificate", Block("CERTIFICATE"), kCertificate, ""},
      {"with words before it, as openssl x509 -text writes", "Certificate:\n  Data:\n" + Block("CERTIFICATE"), kCertificate, ""},
      {"with line ends of Windows", "-----BEGIN CERTIFICATE-----\r\nTUlJ\r\n-----END CERTIFICATE-----\r\n", kCertificate, ""},
      {"a key behind its certificate", Block("CERTIFICATE") + Block("PRIVATE KEY"), kKey, ""},
      {"a key behind its parameters", Block("EC PARAMETERS") + Block("EC PRIVATE KEY"), kKey, ""},
      {"empty", "", kCertificate, "is empty"},
      {"no PEM", "hello\n", kCertificate, "has no line -----BEGIN CERTIFICATE-----"},
      {"DER", "\x30\x82\x01\x02", kKey, "has no line -----BEGIN PRIVATE KEY-----; it looks like DER: convert it with openssl"},
      {"a key in the certificate's place", "\n" + Block("PRIVATE KEY"), kCertificate,
       "line 2: has a block of another kind (PRIVATE KEY), and no certificate follows"},
      {"a certificate in the key's place", Block("CERTIFICATE"), kKey,
       "line 1: has a block of another kind (CERTIFICATE), and no private key follows"},
      {"a public key", Block("PUBLIC KEY"), kKey, "line 1: has a block of another kind (PUBLIC KEY), and no private key follows"},
      {"cut off", "x\n-----BEGIN CERTIFICATE-----\nTUlJ\n", kCertificate,
       "line 2: this block has no end (-----END CERTIFICATE-----); was the file cut off?"},
      {"cut off before the next", "-----BEGIN CERTIFICATE-----\nTUlJ\n" + Block("CERTIFICATE"), kCertificate,
       "line 3: not the end of the block of line 1 (-----END CERTIFICATE-----)"},
      {"a bad line", Block("CERTIFICATE", "TUlJ\nno base64!\n"), kCertificate, "line 3: is not base64"},
      {"nothing within", Block("CERTIFICATE", ""), kCertificate, "line 1: nothing is in this block (CERTIFICATE)"},
      {"an encrypted key", Block("ENCRYPTED PRIVATE KEY"), kKey,
       "line 1: the key is encrypted, and nobody is there to be asked for its password; decrypt it: openssl pkey -in FILE -out NEW"},
      {"encrypted as of old", Block("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nTUlJ\n"), kKey,
       "line 2: the key is encrypted, and nobody is there to be asked for its password; decrypt it: openssl pkey -in FILE -out NEW"},
      {"a label that is none", "-----BEGIN \x1b[31m-----\n", kKey, "has no line -----BEGIN PRIVATE KEY-----"},
  };
  for (const auto& row : rows) EXPECT_EQ(ExplainPem(row.text, row.wanted), row.wrong) << row.name;
}

}  // namespace
}  // namespace hud
