import com.google.protobuf.ByteString;
import alt.ipfs_cluster_node.v1.*;
import io.grpc.*;
import io.grpc.netty.shaded.io.grpc.netty.GrpcSslContexts;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.handler.ssl.SslContext;
import io.grpc.stub.*;
import java.io.File;
import java.util.*;
import java.util.concurrent.*;
import java.util.function.Function;

/** A connection to the leader of a cluster, by docs/other-languages.md. */
final class Cluster implements AutoCloseable {
  static final long CALL_SECONDS = 30;
  static final long RETRY_MS = 200;
  static final int CHUNK_BYTES = 1 << 20;
  static final Metadata.Key<String> REASON = key("ipfs-cluster-node-reason");
  static final Metadata.Key<String> LEADER_ENDPOINT = key("ipfs-cluster-node-leader-endpoint");
  static final Metadata.Key<String> UCAN = key("ucan");

  /** Addresses of leaders that refusals named. */
  final List<String> followed = new ArrayList<>();

  private final Deque<String> endpoints;
  private final SslContext tls;
  private final Metadata metadata = new Metadata();
  private final Map<String, ManagedChannel> channels = new HashMap<>();

  Cluster(List<String> endpoints, String ca, String certificate, String key, String ucan) throws Exception {
    this.endpoints = new ArrayDeque<>(endpoints);
    tls = GrpcSslContexts.forClient()
        .trustManager(new File(ca))
        .keyManager(new File(certificate), new File(key))
        .protocols("TLSv1.3")
        .build();
    if (ucan != null) metadata.put(UCAN, ucan);
  }

  private static Metadata.Key<String> key(String name) {
    return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
  }

  /** Why a call failed; null where the cluster did not say it. */
  static String reasonOf(StatusRuntimeException error) {
    return error.getTrailers() == null ? null : error.getTrailers().get(REASON);
  }

  /** The master in use. */
  private Channel channel() {
    ManagedChannel channel = channels.computeIfAbsent(endpoints.peekFirst(), endpoint ->
        NettyChannelBuilder.forTarget(endpoint).sslContext(tls)
            // A lost leader is noticed.
            .keepAliveTime(10, TimeUnit.SECONDS).keepAliveTimeout(5, TimeUnit.SECONDS).build());
    return ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(metadata));
  }

  /** Repeats a call, at the leader where there is another, until it succeeds or its time is over. */
  <T> T follow(Function<Channel, T> call) throws InterruptedException {
    long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(CALL_SECONDS);
    for (boolean named = false; ;) {
      try {
        return call.apply(channel());
      } catch (StatusRuntimeException error) {
        boolean overloaded = "OVERLOADED".equals(reasonOf(error));
        boolean repeated = overloaded || error.getStatus().getCode() == Status.Code.UNAVAILABLE;
        if (!repeated || System.nanoTime() > deadline) throw error;
        String leader = error.getTrailers() == null ? null : error.getTrailers().get(LEADER_ENDPOINT);
        if (leader != null) {
          followed.add(leader);
          endpoints.remove(leader);
          endpoints.addFirst(leader);
        } else {
          if (!overloaded) endpoints.addLast(endpoints.removeFirst());
          for (ManagedChannel each : channels.values()) each.resetConnectBackoff(); // One that is back is seen soon.
        }
        // At once only the first time: a leader that was lost is named for about a second more.
        if (leader == null || named) Thread.sleep(RETRY_MS);
        named = leader != null;
      }
    }
  }

  /** Adds a file, and returns what the cluster says of it. */
  AddContentResponse addContent(String name, byte[] bytes) throws InterruptedException {
    String requestId = UUID.randomUUID().toString();
    return follow(channel -> {
      CompletableFuture<AddContentResponse> answer = new CompletableFuture<>();
      ContentServiceGrpc.newStub(channel).withDeadlineAfter(CALL_SECONDS, TimeUnit.SECONDS)
          .addContent(new Upload(requestId, name, bytes, answer));
      try {
        return answer.get();
      } catch (ExecutionException failed) {
        throw (StatusRuntimeException) failed.getCause();
      } catch (InterruptedException interrupted) {
        throw new CancellationException();
      }
    });
  }

  /**
   * Sends when gRPC is ready, never in a loop that waits for isReady(): once a call was refused it is never ready again,
   * and only onError says so.
   */
  private static final class Upload implements ClientResponseObserver<AddContentRequest, AddContentResponse> {
    private final String requestId;
    private final String name;
    private final byte[] bytes;
    private final CompletableFuture<AddContentResponse> answer;
    private int sent = -1; // -1: the header is not sent yet.
    private AddContentResponse came;

    Upload(String requestId, String name, byte[] bytes, CompletableFuture<AddContentResponse> answer) {
      this.requestId = requestId;
      this.name = name;
      this.bytes = bytes;
      this.answer = answer;
    }

    @Override public void beforeStart(ClientCallStreamObserver<AddContentRequest> call) {
      call.setOnReadyHandler(() -> {
        while (call.isReady() && sent < bytes.length) {
          if (sent < 0) {
            AddContentHeader header = AddContentHeader.newBuilder()
                .setRequestId(requestId).setName(name).setSizeBytes(bytes.length).build();
            call.onNext(AddContentRequest.newBuilder().setHeader(header).build());
            sent = 0;
          } else {
            int size = Math.min(CHUNK_BYTES, bytes.length - sent);
            call.onNext(AddContentRequest.newBuilder().setData(ByteString.copyFrom(bytes, sent, size)).build());
            sent += size;
          }
          if (sent == bytes.length) call.onCompleted();
        }
      });
    }

    // Only onCompleted makes it an answer: a failure may come after the message.
    @Override public void onNext(AddContentResponse value) {
      came = value;
    }

    @Override public void onCompleted() {
      answer.complete(came);
    }

    @Override public void onError(Throwable error) {
      answer.completeExceptionally(error);
    }
  }

  @Override public void close() {
    for (ManagedChannel channel : channels.values()) channel.shutdownNow();
  }
}
