import alt.ipfs_cluster_node.v1.*;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.google.protobuf.ByteString;
import io.grpc.StatusRuntimeException;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.util.*;
import java.util.concurrent.Callable;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import java.util.stream.Collectors;
import org.apache.arrow.memory.RootAllocator;
import org.apache.arrow.vector.VarCharVector;
import org.apache.arrow.vector.ipc.ArrowStreamReader;

/**
 * A client in Java, by docs/other-languages.md: each step prints a line.
 *
 * <pre>java … Main HOST:PORT[,HOST:PORT] ca.pem client.pem client.key [UCAN-CONTAINER]</pre>
 */
public final class Main {
  private final Cluster cluster;

  private Main(Cluster cluster) {
    this.cluster = cluster;
  }

  public static void main(String[] given) throws Exception {
    String ucan = given.length > 4 ? given[4] : null;
    try (Cluster cluster = new Cluster(Arrays.asList(given[0].split(",")), given[1], given[2], given[3], ucan)) {
      new Main(cluster).run();
    }
  }

  private void run() throws Exception {
    GetHealthResponse health = cluster.follow(channel -> HealthServiceGrpc.newBlockingStub(channel)
        .withDeadlineAfter(Cluster.CALL_SECONDS, TimeUnit.SECONDS).getHealth(GetHealthRequest.getDefaultInstance()));
    System.out.println("health " + health.getName() + " " + health.getRole());

    step("echo", () -> {
      TaskSpec echo = TaskSpec.newBuilder().setTaskType("echo").setPayload(ByteString.copyFromUtf8("hello")).build();
      return result(ended(echo)).toStringUtf8();
    });

    byte[] file = IntStream.range(0, 300_000).mapToObj(Integer::toString)
        .collect(Collectors.joining("\n", "n\n", "")).getBytes(StandardCharsets.US_ASCII);
    String cid = step("upload", () -> cluster.addContent("numbers.csv", file).getCid());
    if (cid != null) {
      step("sql", () -> {
        TaskSpec sql = TaskSpec.newBuilder().setTaskType("data_processing").setContentType("application/json")
            .setPayload(ByteString.copyFromUtf8("{\"sql\": \"SELECT count(*) AS rows, max(n) AS most FROM t\"}"))
            .addInputs(TaskInput.newBuilder().setName("t").setCid(cid).setFormat(FileFormat.FILE_FORMAT_CSV)).build();
        return new ObjectMapper().readTree(result(ended(sql)).toByteArray()).get("rows").toString();
      });
      step("download", () -> Arrays.equals(download(cid), file) ? "same" : "different");
    }

    step("snapshot", this::nodeNames);
    System.out.println("followed " + (cluster.followed.isEmpty() ? "nobody" : cluster.followed.get(0)));
  }

  /** Prints what a step says, or the reason why it was refused. */
  private static String step(String name, Callable<String> what) throws Exception {
    try {
      String said = what.call();
      System.out.println(name + " " + said);
      return said;
    } catch (StatusRuntimeException error) {
      if (Cluster.reasonOf(error) == null) throw error;
      System.out.println(name + " refused " + Cluster.reasonOf(error));
      return null;
    }
  }

  /** Submits a task, and watches it until it has ended. */
  private Task ended(TaskSpec spec) throws InterruptedException {
    SubmitTaskRequest request = SubmitTaskRequest.newBuilder().setRequestId(UUID.randomUUID().toString()).setSpec(spec).build();
    String id = cluster.follow(channel -> TaskDispatchServiceGrpc.newBlockingStub(channel)
        .withDeadlineAfter(Cluster.CALL_SECONDS, TimeUnit.SECONDS).submitTask(request)).getTaskId();
    return cluster.follow(channel -> {
      Task last = null;
      Iterator<WatchTasksResponse> changes = TaskDispatchServiceGrpc.newBlockingStub(channel)
          .withDeadlineAfter(Cluster.CALL_SECONDS, TimeUnit.SECONDS)
          .watchTasks(WatchTasksRequest.newBuilder().addTaskIds(id).build());
      while (changes.hasNext()) for (Task task : changes.next().getTasksList()) last = task;
      return last;
    });
  }

  private static ByteString result(Task task) {
    TaskStatus status = task.getStatus();
    if (status.getState() != TaskState.TASK_STATE_SUCCEEDED) {
      throw new IllegalStateException(status.getState() + ": " + status.getFailure().getMessage());
    }
    return status.getResult().getData();
  }

  private byte[] download(String cid) throws InterruptedException {
    return cluster.follow(channel -> {
      ByteArrayOutputStream file = new ByteArrayOutputStream();
      ContentServiceGrpc.newBlockingStub(channel).withDeadlineAfter(Cluster.CALL_SECONDS, TimeUnit.SECONDS)
          .getContent(GetContentRequest.newBuilder().setCid(cid).build())
          .forEachRemaining(part -> file.writeBytes(part.getData().toByteArray()));
      return file.toByteArray();
    });
  }

  private String nodeNames() throws Exception {
    ByteArrayOutputStream stream = cluster.follow(channel -> {
      // The schema's message, then the batches' messages: that is an Arrow IPC stream.
      ByteArrayOutputStream parts = new ByteArrayOutputStream();
      int[] missing = {1};
      StateDeltaServiceGrpc.newBlockingStub(channel).withDeadlineAfter(Cluster.CALL_SECONDS, TimeUnit.SECONDS)
          .getSnapshot(GetSnapshotRequest.newBuilder().setTable(StateTable.STATE_TABLE_NODES).build())
          .forEachRemaining(part -> {
            parts.writeBytes(part.getSchema().toByteArray());
            parts.writeBytes(part.getPayload().toByteArray());
            missing[0] = part.getPartCount() - part.getPart() - 1;
          });
      if (missing[0] != 0) throw new IllegalStateException("parts are missing");
      return parts;
    });
    List<String> names = new ArrayList<>();
    try (RootAllocator memory = new RootAllocator();
        ArrowStreamReader reader = new ArrowStreamReader(new ByteArrayInputStream(stream.toByteArray()), memory)) {
      while (reader.loadNextBatch()) {
        VarCharVector column = (VarCharVector) reader.getVectorSchemaRoot().getVector("name");
        for (int row = 0; row < column.getValueCount(); row++) names.add(column.getObject(row).toString());
      }
    }
    Collections.sort(names);
    return String.join(" ", names);
  }
}
