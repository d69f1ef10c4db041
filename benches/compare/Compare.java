import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;

/**
 * Apache Avro for Java, generic records, decoder, encoder and record used again: decodes each record, adds the new fields, encodes it. See `run`.
 *
 * usage: Compare DATA_FOLDER SCHEMAS_FOLDER OUT_FOLDER
 */
public class Compare {
  static final int WARM_UP = 5;
  static final int ROUNDS = 6;
  /** How often a round passes over the data: the scheduler's count is only exact to some milliseconds. */
  static final int PASSES = 10;
  static final int WRITTEN = 2000;
  static final String[] SEGMENTS = {"gold", "new-customer", "bargain-hunter"};

  interface Work {
    void run() throws IOException;
  }

  public static void main(String[] arguments) throws IOException {
    Path data = Path.of(arguments[0]);
    Path schemas = Path.of(arguments[1]);
    Path out = Path.of(arguments[2]);
    String rich = measure("events", data, out, schemas.resolve("event.avsc"), schemas.resolve("event_enriched.avsc"));
    String flat = measure("flats", data, out, schemas.resolve("flat.avsc"), schemas.resolve("flat_enriched.avsc"));
    System.out.printf("{\"stack\": \"Java %s, Apache Avro %s\", \"rich\": %s, \"flat\": %s}%n",
        System.getProperty("java.version"), Schema.class.getPackage().getImplementationVersion(), rich, flat);
  }

  static String measure(String name, Path folder, Path out, Path before, Path after) throws IOException {
    Schema schema = new Schema.Parser().parse(Files.readString(before));
    Schema enriched = new Schema.Parser().parse(Files.readString(after));
    List<byte[]> data = read(folder.resolve(name + ".bin"));
    GenericDatumReader<GenericData.Record> reader = new GenericDatumReader<>(schema);
    GenericDatumWriter<GenericData.Record> writer = new GenericDatumWriter<>(enriched);
    BinaryDecoder[] decoder = {null};
    GenericData.Record[] record = {null};
    double decode = least(data.size(), () -> {
      for (byte[] datum : data) {
        decoder[0] = DecoderFactory.get().binaryDecoder(datum, decoder[0]);
        record[0] = reader.read(record[0], decoder[0]);
      }
    });
    ByteArrayOutputStream bytes = new ByteArrayOutputStream(8192);
    BinaryEncoder[] encoder = {null};
    ByteArrayOutputStream first = new ByteArrayOutputStream();
    GenericData.Record output = new GenericData.Record(enriched);
    int fields = schema.getFields().size();
    int ts = schema.getField("ts").pos();
    boolean flat = name.equals("flats");
    double enrich = least(data.size(), () -> {
      first.reset();
      int number = 0;
      for (byte[] datum : data) {
        decoder[0] = DecoderFactory.get().binaryDecoder(datum, decoder[0]);
        record[0] = reader.read(record[0], decoder[0]);
        for (int i = 0; i < fields; i++) output.put(i, record[0].get(i));
        int next = fields;
        output.put(next++, number % 4 == 0 ? null : SEGMENTS[number % 3]);
        if (!flat) {
          output.put(next++, number % 5 == 0 ? null : (Object) (number * 0.5));
          output.put(next++, "FR");
        }
        output.put(next, (Long) record[0].get(ts) * 1000);
        bytes.reset();
        encoder[0] = EncoderFactory.get().directBinaryEncoder(bytes, encoder[0]);
        writer.write(output, encoder[0]);
        if (number++ < WRITTEN) bytes.writeTo(first);
      }
    });
    Files.write(out.resolve("java-" + name + ".out"), first.toByteArray());
    return String.format("{\"decode\": %.1f, \"enrich\": %.1f}", decode, enrich);
  }

  /** CPU of all threads, the collector's among them: the least of several rounds, after the compiler is done. */
  static double least(int count, Work work) throws IOException {
    long least = Long.MAX_VALUE;
    for (int round = 0; round < WARM_UP + ROUNDS; round++) {
      long before = cpu();
      for (int pass = 0; pass < PASSES; pass++) work.run();
      long took = cpu() - before;
      // A thread that has ended meanwhile takes its time along.
      if (round >= WARM_UP && took > 0) least = Math.min(least, took);
    }
    return (double) least / count / PASSES;
  }

  /** In nanoseconds, by the scheduler's own count: Java's is in hundredths of a second. */
  static long cpu() throws IOException {
    long sum = 0;
    try (var threads = Files.newDirectoryStream(Path.of("/proc/self/task"))) {
      for (Path thread : threads) {
        try {
          sum += Long.parseLong(Files.readString(thread.resolve("schedstat")).split(" ")[0]);
        } catch (java.nio.file.NoSuchFileException ended) {
          // Between the listing and the reading.
        }
      }
    }
    return sum;
  }

  static List<byte[]> read(Path path) throws IOException {
    ByteBuffer all = ByteBuffer.wrap(Files.readAllBytes(path)).order(ByteOrder.LITTLE_ENDIAN);
    List<byte[]> data = new ArrayList<>();
    while (all.hasRemaining()) {
      byte[] datum = new byte[all.getInt()];
      all.get(datum);
      data.add(datum);
    }
    return data;
  }
}
