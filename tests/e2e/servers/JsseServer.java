// A small HTTPS server on JSSE: java JsseServer.java HOST PORT KEYSTORE.p12 TLSv1.2|TLSv1.3 NAME
import java.io.FileInputStream;
import java.io.InputStream;
import java.net.InetAddress;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.util.concurrent.Executors;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;

public class JsseServer {
  public static void main(String[] args) throws Exception {
    KeyStore store = KeyStore.getInstance("PKCS12");
    store.load(new FileInputStream(args[2]), "hudsucker".toCharArray());
    KeyManagerFactory keys = KeyManagerFactory.getInstance("SunX509");
    keys.init(store, "hudsucker".toCharArray());
    SSLContext context = SSLContext.getInstance("TLS");
    context.init(keys.getKeyManagers(), null, null);
    SSLServerSocket listener = (SSLServerSocket) context.getServerSocketFactory()
        .createServerSocket(Integer.parseInt(args[1]), 1000, InetAddress.getByName(args[0]));
    listener.setEnabledProtocols(new String[] {args[3]});
    byte[] answer = ("HTTP/1.1 200 OK\r\nX-Node: " + args[4] + "\r\nConnection: close\r\nContent-Length: 3\r\n\r\nhi\n")
        .getBytes(StandardCharsets.US_ASCII);
    var pool = Executors.newCachedThreadPool();
    while (true) {
      SSLSocket socket = (SSLSocket) listener.accept();
      pool.submit(() -> {
        try (socket) {
          socket.setSoTimeout(5000);
          InputStream in = socket.getInputStream();
          int ends = 0;
          for (int c; ends < 4 && (c = in.read()) >= 0;) ends = c == '\r' || c == '\n' ? ends + 1 : 0;
          if (ends == 4) socket.getOutputStream().write(answer);
        } catch (Exception ignored) {
          // A client that left: nothing to be done for it.
        }
      });
    }
  }
}
