package dev.penstock;

import io.grpc.Attributes;
import io.grpc.EquivalentAddressGroup;
import io.grpc.NameResolver;
import io.grpc.NameResolverProvider;
import io.grpc.NameResolverRegistry;
import io.grpc.Status;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.net.URI;
import java.net.UnknownHostException;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Set;
import java.util.concurrent.Executor;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Targets of the form "penstock-list:///host:port,host:port": every address of every host. */
final class AddressList extends NameResolverProvider {
  static final String SCHEME = "penstock-list";

  private static final AddressList PROVIDER = new AddressList();

  private static final Pattern HOST_PORT =
      Pattern.compile("([^\\s:/,\\[\\]]+|\\[[0-9A-Fa-f:.]+]):([0-9]{1,5})");

  /** One address of the list. */
  private static final class HostPort {
    final String host;
    final int port;

    HostPort(String address) {
      Matcher parts = HOST_PORT.matcher(address);
      if (!parts.matches()) {
        throw new IllegalArgumentException("\"" + address + "\" is not of the form host:port");
      }
      // InetAddress takes an IPv6 address in its brackets too.
      host = parts.group(1);
      port = Integer.parseInt(parts.group(2));
    }

    String authority() {
      return host + ":" + port;
    }
  }

  /**
   * The target of gRPC that means these addresses.
   *
   * @throws IllegalArgumentException one of several is not of the form host:port
   */
  static String target(List<String> addresses) {
    if (addresses.size() == 1) {
      String address = addresses.get(0);
      boolean isTarget = address.contains("://") || address.matches("(unix|dns|xds):.*");
      return isTarget ? address : "dns:///" + address;
    }
    if (addresses.isEmpty()) throw new IllegalArgumentException("no address was given");
    addresses.forEach(HostPort::new);
    // Brackets may not stand in the path of a URI.
    String path = String.join(",", addresses).replace("[", "%5B").replace("]", "%5D");
    NameResolverRegistry.getDefaultRegistry().register(PROVIDER);
    return SCHEME + ":///" + path;
  }

  @Override
  public NameResolver newNameResolver(URI target, NameResolver.Args args) {
    if (!SCHEME.equals(target.getScheme())) return null;
    List<HostPort> hosts = new ArrayList<>();
    for (String address : target.getPath().substring(1).split(",")) {
      hosts.add(new HostPort(address));
    }
    return new Resolver(hosts, args.getOffloadExecutor());
  }

  @Override
  public String getDefaultScheme() {
    return SCHEME;
  }

  @Override
  protected boolean isAvailable() {
    return true;
  }

  @Override
  protected int priority() {
    // Below 5, so that addresses without a scheme stay with DNS.
    return 1;
  }

  @Override
  public Collection<Class<? extends SocketAddress>> getProducedSocketAddressTypes() {
    return Set.of(InetSocketAddress.class);
  }

  /** Looks the hosts up when it starts and whenever a connection was lost. */
  private static final class Resolver extends NameResolver {
    private final List<HostPort> hosts;
    private final Executor executor;
    private volatile Listener2 listener;

    Resolver(List<HostPort> hosts, Executor executor) {
      this.hosts = hosts;
      this.executor = executor;
    }

    @Override
    public String getServiceAuthority() {
      return hosts.get(0).authority();
    }

    @Override
    public void start(Listener2 listener) {
      this.listener = listener;
      refresh();
    }

    @Override
    public void refresh() {
      executor.execute(this::resolve);
    }

    @Override
    public void shutdown() {}

    private void resolve() {
      List<EquivalentAddressGroup> found = new ArrayList<>();
      UnknownHostException unknown = null;
      for (HostPort at : hosts) {
        // A certificate is checked against the host whose address this is.
        Attributes attributes =
            Attributes.newBuilder()
                .set(EquivalentAddressGroup.ATTR_AUTHORITY_OVERRIDE, at.authority())
                .build();
        try {
          for (InetAddress address : InetAddress.getAllByName(at.host)) {
            found.add(
                new EquivalentAddressGroup(new InetSocketAddress(address, at.port), attributes));
          }
        } catch (UnknownHostException e) {
          unknown = e;
        }
      }
      if (found.isEmpty()) {
        listener.onError(Status.UNAVAILABLE.withDescription("no such host").withCause(unknown));
      } else {
        listener.onResult(ResolutionResult.newBuilder().setAddresses(found).build());
      }
    }
  }
}
