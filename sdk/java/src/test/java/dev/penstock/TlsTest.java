package dev.penstock;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import io.grpc.ServerCredentials;
import io.grpc.Status.Code;
import io.grpc.TlsServerCredentials;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.Key;
import java.security.KeyStore;
import java.time.Duration;
import java.util.Base64;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

@Timeout(60)
class TlsTest {
  private static final char[] PASSWORD = "password".toCharArray();

  @TempDir static Path dir;

  /** A certificate that vouches for itself, and its key, made by the JDK's keytool. */
  private static void make(String name, String subject) throws Exception {
    Path store = dir.resolve(name + ".p12");
    Process keytool =
        new ProcessBuilder(
                Path.of(System.getProperty("java.home"), "bin", "keytool").toString(),
                "-genkeypair", "-keyalg", "EC", "-alias", "x", "-storetype", "PKCS12",
                "-keystore", store.toString(), "-storepass", new String(PASSWORD),
                "-dname", "CN=" + name, "-ext", "SAN=" + subject, "-ext", "BC=ca:true")
            .redirectErrorStream(true)
            .start();
    String said = new String(keytool.getInputStream().readAllBytes());
    assertEquals(0, keytool.waitFor(), said);
    KeyStore keys = KeyStore.getInstance("PKCS12");
    try (InputStream in = Files.newInputStream(store)) {
      keys.load(in, PASSWORD);
    }
    Key key = keys.getKey("x", PASSWORD);
    write(name + ".pem", "CERTIFICATE", keys.getCertificate("x").getEncoded());
    write(name + ".key", "PRIVATE KEY", key.getEncoded());
  }

  private static void write(String file, String what, byte[] der) throws Exception {
    String text = Base64.getMimeEncoder(64, new byte[] {'\n'}).encodeToString(der);
    Files.writeString(
        dir.resolve(file),
        "-----BEGIN " + what + "-----\n" + text + "\n-----END " + what + "-----\n");
  }

  @BeforeAll
  static void certificates() throws Exception {
    make("gateway", "IP:127.0.0.1");
    make("named", "DNS:penstock.example");
    make("client", "DNS:client");
  }

  private static FakeGateway gateway(String name) throws Exception {
    ServerCredentials credentials =
        TlsServerCredentials.create(
            dir.resolve(name + ".pem").toFile(), dir.resolve(name + ".key").toFile());
    return new FakeGateway(0, credentials);
  }

  private static Client.Builder builder(FakeGateway gateway) {
    return Client.builder(gateway.address()).retryBudget(Duration.ZERO);
  }

  @Test
  void theGatewaysCertificateIsChecked() throws Exception {
    try (FakeGateway gateway = gateway("gateway")) {
      try (Client client = builder(gateway).tls(dir.resolve("gateway.pem")).build()) {
        assertEquals("t", client.send("add").id());
      }
      try (Client other = builder(gateway).tls(dir.resolve("client.pem")).build()) {
        assertEquals(
            Code.UNAVAILABLE, assertThrows(RpcException.class, () -> other.send("add")).code());
      }
      try (Client system = builder(gateway).tls().build()) {
        assertThrows(RpcException.class, () -> system.send("add"));
      }
      assertEquals(1, gateway.sends.size());
    }
  }

  @Test
  void theNameInTheCertificateIsChecked() throws Exception {
    Path ca = dir.resolve("named.pem");
    try (FakeGateway gateway = gateway("named")) {
      try (Client wrong = builder(gateway).tls(ca).build()) {
        assertThrows(RpcException.class, () -> wrong.send("add"));
      }
      try (Client named = builder(gateway).tls(ca).serverName("penstock.example").build()) {
        assertEquals("t", named.send("add").id());
      }
    }
  }

  @Test
  void eachOfSeveralAddressesIsCheckedByItsOwnName() throws Exception {
    try (FakeGateway one = gateway("gateway");
        FakeGateway other = gateway("gateway");
        Client both =
            Client.builder("localhost:" + one.port(), other.address())
                .tls(dir.resolve("gateway.pem"))
                .build()) {
      // The certificate is for 127.0.0.1, so it will not do for "localhost".
      for (int i = 0; i < 5; ++i) both.send("add");
      assertEquals(0, one.sends.size());
      assertEquals(5, other.sends.size());
    }
  }

  @Test
  void theClientShowsItsCertificate() throws Exception {
    ServerCredentials demanding =
        TlsServerCredentials.newBuilder()
            .keyManager(dir.resolve("gateway.pem").toFile(), dir.resolve("gateway.key").toFile())
            .trustManager(dir.resolve("client.pem").toFile())
            .clientAuth(TlsServerCredentials.ClientAuth.REQUIRE)
            .build();
    try (FakeGateway gateway = new FakeGateway(0, demanding)) {
      Client.Builder builder = builder(gateway).tls(dir.resolve("gateway.pem"));
      try (Client nobody = builder.build()) {
        assertThrows(RpcException.class, () -> nobody.send("add"));
      }
      builder.clientCertificate(dir.resolve("client.pem"), dir.resolve("client.key"));
      try (Client known = builder.build()) {
        assertEquals("t", known.send("add").id());
      }
    }
  }

  @Test
  void aFileThatIsMissingIsTold() {
    Client.Builder builder = Client.builder("localhost:1").tls(dir.resolve("none.pem"));
    assertThrows(UncheckedIOException.class, builder::build);
  }
}
