import static java.nio.charset.StandardCharsets.UTF_8;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.sun.management.OperatingSystemMXBean;
import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.CommitMode;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.PollContext;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Applies updates with Confluent Parallel Consumer, ordered by key, which is the subscription.
 *
 * <p>The task comes as a line of JSON on standard input, the rate goes as JSON to standard output.
 * Before it, another topic warms the virtual machine; "warm" is said then, and a line awaited.
 */
public final class Main {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final int PARTITIONS = 720;

  /** How records are written, and how many of them at once. */
  enum Mode {
    SINGLE(64, 1, 16),
    JDBC_BATCH(8, 500, 8),
    UNNEST(4, 2_000, 4);

    final int concurrency;
    final int batchSize;
    final int connectionsPerShard;

    Mode(int concurrency, int batchSize, int connectionsPerShard) {
      this.concurrency = concurrency;
      this.batchSize = batchSize;
      this.connectionsPerShard = connectionsPerShard;
    }
  }

  record Update(UUID appId, UUID subscriptionId, String tags, long timestamp, long offset) {}

  public static void main(String[] arguments) throws Exception {
    BufferedReader input = new BufferedReader(new InputStreamReader(System.in, UTF_8));
    JsonNode task = JSON.readTree(input.readLine());
    Mode mode = Mode.valueOf(task.get("mode").asText());
    List<HikariDataSource> shards = new ArrayList<>();
    for (JsonNode dsn : task.get("dsns")) {
      shards.add(open(dsn.asText(), mode.connectionsPerShard));
    }
    consume(task, task.get("warm_up"), mode, new Shards(shards, mode, true));
    System.out.println("warm");
    input.readLine();
    Map<String, Object> rate = consume(task, task, mode, new Shards(shards, mode, false));
    System.out.println(JSON.writeValueAsString(rate));
    shards.forEach(HikariDataSource::close);
    System.exit(0);
  }

  private static Map<String, Object> consume(
      JsonNode task, JsonNode source, Mode mode, Shards writer) throws Exception {
    Progress progress = new Progress(source.get("records").asLong());
    ParallelStreamProcessor<byte[], byte[]> processor =
        ParallelStreamProcessor.createEosStreamProcessor(
            options(task, source.get("group").asText(), mode));
    processor.subscribe(List.of(source.get("topic").asText()));
    processor.poll(
        context -> {
          progress.begin();
          writer.write(context);
          progress.advance(context.size());
        });
    progress.await();
    Map<String, Object> rate = progress.rate(writer.statements.get());
    processor.closeDontDrainFirst();
    return rate;
  }

  private static ParallelConsumerOptions<byte[], byte[]> options(
      JsonNode task, String group, Mode mode) {
    Properties properties = new Properties();
    properties.put(
        ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, task.get("bootstrap_servers").asText());
    properties.put(ConsumerConfig.GROUP_ID_CONFIG, group);
    properties.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
    properties.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
    properties.put(ConsumerConfig.MAX_POLL_RECORDS_CONFIG, 10_000);
    properties.put(ConsumerConfig.FETCH_MIN_BYTES_CONFIG, 1);
    KafkaConsumer<byte[], byte[]> consumer =
        new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    return ParallelConsumerOptions.<byte[], byte[]>builder()
        .consumer(consumer)
        .ordering(ProcessingOrder.KEY)
        .commitMode(CommitMode.PERIODIC_CONSUMER_ASYNCHRONOUS)
        .maxConcurrency(mode.concurrency)
        .batchSize(mode.batchSize)
        .build();
  }

  private static HikariDataSource open(String dsn, int connections) {
    URI uri = URI.create(dsn);
    String[] user = uri.getUserInfo().split(":");
    HikariConfig config = new HikariConfig();
    config.setJdbcUrl("jdbc:postgresql://%s:%d%s".formatted(
        uri.getHost(), uri.getPort(), uri.getPath()));
    config.setUsername(user[0]);
    config.setPassword(user[1]);
    config.setMaximumPoolSize(connections);
    config.addDataSourceProperty("prepareThreshold", "1");
    return new HikariDataSource(config);
  }

  /** Writes updates to the shards that own their partitions. */
  private static final class Shards {
    private static final String ONE =
        """
        UPDATE subscriptions
        SET tags = jsonb_strip_nulls(tags || ?::jsonb), updated_at = to_timestamp(? / 1000.0),
            applied_epoch = 0, applied_offset = ?
        WHERE app_id = ? AND subscription_id = ? AND (applied_epoch, applied_offset) < (0, ?)
        """;
    private static final String MANY =
        """
        UPDATE subscriptions AS row
        SET tags = jsonb_strip_nulls(row.tags || change.tags),
            updated_at = to_timestamp(change.accepted_ms / 1000.0),
            applied_epoch = 0, applied_offset = change.position
        FROM unnest(?::uuid[], ?::uuid[], ?::jsonb[], ?::bigint[], ?::bigint[])
            AS change (app_id, subscription_id, tags, accepted_ms, position)
        WHERE row.app_id = change.app_id AND row.subscription_id = change.subscription_id
            AND (row.applied_epoch, row.applied_offset) < (0, change.position)
        """;

    /** Where every row stands before the first update: at it, an update changes nothing. */
    private static final long NOWHERE = -1;

    final AtomicLong statements = new AtomicLong();
    private final List<HikariDataSource> shards;
    private final Mode mode;
    private final boolean warmsUp;
    private final AtomicLong batches = new AtomicLong();

    Shards(List<HikariDataSource> shards, Mode mode, boolean warmsUp) {
      this.shards = shards;
      this.mode = mode;
      this.warmsUp = warmsUp;
    }

    void write(PollContext<byte[], byte[]> context) {
      List<List<Update>> byShard = new ArrayList<>();
      shards.forEach(shard -> byShard.add(new ArrayList<>()));
      for (ConsumerRecord<byte[], byte[]> record : context.getConsumerRecordsFlattened()) {
        byShard.get(record.partition() * shards.size() / PARTITIONS).add(decode(record));
      }
      int first = (int) (batches.getAndIncrement() % shards.size()); // not all at the same shard
      for (int number = 0; number < shards.size(); number++) {
        int shard = (first + number) % shards.size();
        if (!byShard.get(shard).isEmpty()) {
          write(shard, byShard.get(shard));
        }
      }
    }

    private Update decode(ConsumerRecord<byte[], byte[]> record) {
      try {
        JsonNode value = JSON.readTree(record.value());
        return new Update(
            UUID.fromString(value.get("app_id").textValue()),
            UUID.fromString(value.get("subscription_id").textValue()),
            value.get("tags").toString(),
            record.timestamp(),
            warmsUp ? NOWHERE : record.offset());
      } catch (IOException error) {
        throw new UncheckedIOException(error);
      }
    }

    /** Writes updates of one shard; what Postgres refuses is found by halves and dropped. */
    private void write(int shard, List<Update> updates) {
      try (Connection connection = shards.get(shard).getConnection()) {
        switch (mode) {
          case SINGLE -> writeOne(connection, updates.get(0));
          case JDBC_BATCH -> writeBatch(connection, updates);
          case UNNEST -> writeMany(connection, updates);
        }
      } catch (SQLException error) {
        if (error.getSQLState() == null || !error.getSQLState().startsWith("22")) {
          throw new IllegalStateException(error); // Parallel Consumer tries it again
        }
        if (updates.size() > 1) {
          write(shard, updates.subList(0, updates.size() / 2));
          write(shard, updates.subList(updates.size() / 2, updates.size()));
        }
      }
    }

    private void writeOne(Connection connection, Update update) throws SQLException {
      try (PreparedStatement statement = connection.prepareStatement(ONE)) {
        bind(statement, update);
        statement.executeUpdate();
        statements.incrementAndGet();
      }
    }

    private void writeBatch(Connection connection, List<Update> updates) throws SQLException {
      connection.setAutoCommit(false);
      try (PreparedStatement statement = connection.prepareStatement(ONE)) {
        for (Update update : updates) {
          bind(statement, update);
          statement.addBatch();
        }
        statement.executeBatch();
        connection.commit();
        statements.addAndGet(updates.size());
      } catch (SQLException error) {
        connection.rollback();
        throw error;
      }
    }

    private static void bind(PreparedStatement statement, Update update) throws SQLException {
      statement.setString(1, update.tags());
      statement.setLong(2, update.timestamp());
      statement.setLong(3, update.offset());
      statement.setObject(4, update.appId());
      statement.setObject(5, update.subscriptionId());
      statement.setLong(6, update.offset());
    }

    /** Writes a row once in a statement; a second update of it begins another one. */
    private void writeMany(Connection connection, List<Update> updates) throws SQLException {
      List<Update> rows = new ArrayList<>(updates.size());
      Set<UUID> seen = new HashSet<>(updates.size() * 2);
      for (Update update : updates) {
        if (!seen.add(update.subscriptionId())) {
          execute(connection, rows);
          rows.clear();
          seen.clear();
          seen.add(update.subscriptionId());
        }
        rows.add(update);
      }
      execute(connection, rows);
    }

    private void execute(Connection connection, List<Update> rows) throws SQLException {
      UUID[] apps = new UUID[rows.size()];
      UUID[] subscriptions = new UUID[rows.size()];
      String[] tags = new String[rows.size()];
      Long[] timestamps = new Long[rows.size()];
      Long[] offsets = new Long[rows.size()];
      for (int i = 0; i < rows.size(); i++) {
        Update update = rows.get(i);
        apps[i] = update.appId();
        subscriptions[i] = update.subscriptionId();
        tags[i] = update.tags();
        timestamps[i] = update.timestamp();
        offsets[i] = update.offset();
      }
      try (PreparedStatement statement = connection.prepareStatement(MANY)) {
        statement.setArray(1, connection.createArrayOf("uuid", apps));
        statement.setArray(2, connection.createArrayOf("uuid", subscriptions));
        statement.setArray(3, connection.createArrayOf("jsonb", tags));
        statement.setArray(4, connection.createArrayOf("int8", timestamps));
        statement.setArray(5, connection.createArrayOf("int8", offsets));
        statement.executeUpdate();
        statements.incrementAndGet();
      }
    }
  }

  /** Measures from the first record to the last one. */
  private static final class Progress {
    private static final OperatingSystemMXBean PROCESS =
        (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    private final CountDownLatch done = new CountDownLatch(1);
    private final AtomicLong count = new AtomicLong();
    private final long records;
    private long startedAt;
    private long cpuBefore;
    private volatile boolean running;
    private double seconds;
    private double cpuSeconds;

    Progress(long records) {
      this.records = records;
    }

    void begin() {
      if (!running) {
        start();
      }
    }

    private synchronized void start() {
      if (!running) {
        startedAt = System.nanoTime();
        cpuBefore = PROCESS.getProcessCpuTime();
        running = true;
      }
    }

    void advance(long more) {
      if (count.addAndGet(more) == records) {
        seconds = (System.nanoTime() - startedAt) / 1e9;
        cpuSeconds = (PROCESS.getProcessCpuTime() - cpuBefore) / 1e9;
        done.countDown();
      }
    }

    void await() throws InterruptedException {
      done.await();
    }

    Map<String, Object> rate(long statements) throws IOException {
      return Map.of(
          "updates", records,
          "seconds", seconds,
          "client_cpu_s", cpuSeconds,
          "rss_max_mib", rssMaxMib(),
          "statements", statements);
    }

    private static double rssMaxMib() throws IOException {
      Path status = Path.of("/proc/self/status");
      if (!Files.exists(status)) {
        return 0;
      }
      String line =
          Files.readAllLines(status).stream()
              .filter(each -> each.startsWith("VmHWM"))
              .findFirst()
              .orElse("VmHWM: 0 kB");
      return Double.parseDouble(line.replaceAll("\\D", "")) / 1024;
    }
  }
}
