import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;

/**
 * Apache Avro for Java writes a corpus, and reads what Messina made of it. See `run`, beside this.
 *
 * `Corpus write FOLDER`: of java_schemas.json, a list of {"schema", "output"}, it makes random data of each schema: java.bin (per datum a
 * little-endian u32 with its length, and the datum) and java.json, a list of {"schema", "output", "values", "resolved"}: the values, and what
 * they are when read with `output` as the reader's schema. Bytes are text in JSON, one letter a byte; numbers are what they are
 * without logical types.
 *
 * `Corpus check FOLDER`: java_spliced.bin has, for each datum, what Messina's splice made of it. It must read as `resolved` says.
 */
public class Corpus {
  static final Random RANDOM = new Random(20);
  static final ObjectMapper MAPPER = new ObjectMapper();
  static final int DATA = 6;
  static final long[] LONGS = {0, -1, 63, 64, -64, -65, 8191, 8192, Integer.MAX_VALUE, Integer.MIN_VALUE, 1L << 62, Long.MAX_VALUE, Long.MIN_VALUE};
  static final String[] TEXTS = {"", "a", "größe", "海岸", "\uD834\uDD1E", "x".repeat(63), "y".repeat(64), "ü".repeat(70)};

  public static void main(String[] arguments) throws IOException {
    Path folder = Path.of(arguments[1]);
    switch (arguments[0]) {
      case "write" -> write(folder);
      case "check" -> check(folder);
      default -> throw new IllegalArgumentException(arguments[0]);
    }
  }

  static void write(Path folder) throws IOException {
    ByteArrayOutputStream bin = new ByteArrayOutputStream();
    List<Object> entries = new ArrayList<>();
    for (JsonNode entry : MAPPER.readTree(Files.readString(folder.resolve("java_schemas.json")))) {
      Schema schema = parse(entry.get("schema"));
      Schema output = parse(entry.get("output"));
      List<Object> values = new ArrayList<>();
      List<Object> resolved = new ArrayList<>();
      for (int i = 0; i < DATA; i++) {
        Object value;
        byte[] datum;
        do {
          value = value(schema, 0);
          datum = encode(schema, value, i % 2 == 0);
        } while (datum.length > 1500);
        put(bin, datum);
        values.add(shown(schema, value));
        resolved.add(shown(output, decode(schema, output, datum)));
      }
      Map<String, Object> made = new LinkedHashMap<>();
      made.put("schema", entry.get("schema"));
      made.put("output", entry.get("output"));
      made.put("values", values);
      made.put("resolved", resolved);
      entries.add(made);
    }
    Files.write(folder.resolve("java.bin"), bin.toByteArray());
    JsonFactory ascii = JsonFactory.builder().build().configure(JsonGenerator.Feature.ESCAPE_NON_ASCII, true);
    Files.write(folder.resolve("java.json"), new ObjectMapper(ascii).writeValueAsBytes(entries));
  }

  static void check(Path folder) throws IOException {
    ByteBuffer data = ByteBuffer.wrap(Files.readAllBytes(folder.resolve("java_spliced.bin"))).order(ByteOrder.LITTLE_ENDIAN);
    int count = 0;
    for (JsonNode entry : MAPPER.readTree(Files.readString(folder.resolve("java.json")))) {
      Schema output = parse(entry.get("output"));
      for (JsonNode expected : entry.get("resolved")) {
        byte[] datum = new byte[data.getInt()];
        data.get(datum);
        JsonNode found = MAPPER.readTree(MAPPER.writeValueAsBytes(shown(output, decode(output, output, datum))));
        if (!found.equals(expected)) {
          throw new AssertionError("datum " + count + " of " + output + "\n is       " + found + "\n and not  " + expected);
        }
        count++;
      }
    }
    if (data.hasRemaining()) throw new AssertionError(data.remaining() + " bytes are left over");
    System.out.println(count + " data that Messina made are read by Java as what they must be");
  }

  static Schema parse(JsonNode schema) {
    return new Schema.Parser().parse(schema.toString());
  }

  static byte[] encode(Schema schema, Object value, boolean sized) throws IOException {
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    EncoderFactory factory = new EncoderFactory().configureBlockSize(64);
    BinaryEncoder encoder = sized ? factory.blockingBinaryEncoder(out, null) : factory.binaryEncoder(out, null);
    new GenericDatumWriter<>(schema).write(value, encoder);
    encoder.flush();
    return out.toByteArray();
  }

  static Object decode(Schema writer, Schema reader, byte[] datum) throws IOException {
    BinaryDecoder decoder = DecoderFactory.get().binaryDecoder(datum, null);
    Object value = new GenericDatumReader<>(writer, reader).read(null, decoder);
    if (!decoder.isEnd()) throw new AssertionError("bytes are left over");
    return value;
  }

  static void put(ByteArrayOutputStream out, byte[] datum) {
    out.writeBytes(ByteBuffer.allocate(4).order(ByteOrder.LITTLE_ENDIAN).putInt(datum.length).array());
    out.writeBytes(datum);
  }

  static Object value(Schema schema, int depth) {
    return switch (schema.getType()) {
      case NULL -> null;
      case BOOLEAN -> RANDOM.nextBoolean();
      case INT -> (int) LONGS[RANDOM.nextInt(10)];
      case LONG -> LONGS[RANDOM.nextInt(LONGS.length)];
      case FLOAT -> (RANDOM.nextInt(199) - 99) / 4f;
      case DOUBLE -> (RANDOM.nextInt(19999) - 9999) / 64.0;
      case BYTES -> ByteBuffer.wrap(bytes("decimal".equals(schema.getProp("logicalType")) ? 1 + RANDOM.nextInt(4) : RANDOM.nextInt(3) * 33));
      case STRING -> "uuid".equals(schema.getProp("logicalType"))
          ? new java.util.UUID(RANDOM.nextLong(), RANDOM.nextLong()).toString()
          : TEXTS[RANDOM.nextInt(TEXTS.length)];
      case FIXED -> {
        byte[] made = bytes(schema.getFixedSize());
        // Of eight bytes a decimal of 18 digits has seven.
        if ("decimal".equals(schema.getProp("logicalType"))) made[0] = (byte) (made[1] < 0 ? -1 : 0);
        yield new GenericData.Fixed(schema, made);
      }
      case ENUM -> new GenericData.EnumSymbol(schema, schema.getEnumSymbols().get(RANDOM.nextInt(schema.getEnumSymbols().size())));
      case UNION -> {
        List<Schema> types = schema.getTypes();
        int chosen = RANDOM.nextInt(types.size());
        for (int i = 0; depth > 5 && i < types.size(); i++) {
          if (types.get(i).getType() == Schema.Type.NULL) chosen = i;
        }
        // A value must say which branch it is of: text and bytes do by their type, and no two branches share that.
        yield value(types.get(chosen), depth + 1);
      }
      case ARRAY -> {
        List<Object> items = new ArrayList<>();
        for (int n = depth > 5 ? 0 : new int[] {0, 1, 2, 9}[RANDOM.nextInt(4)]; n > 0; n--) items.add(value(schema.getElementType(), depth + 1));
        yield items;
      }
      case MAP -> {
        Map<String, Object> entries = new LinkedHashMap<>();
        for (int n = depth > 5 ? 0 : RANDOM.nextInt(4); n > 0; n--) entries.put("k" + n, value(schema.getValueType(), depth + 1));
        yield entries;
      }
      case RECORD -> {
        GenericData.Record record = new GenericData.Record(schema);
        for (Schema.Field field : schema.getFields()) record.put(field.pos(), value(field.schema(), depth + 1));
        yield record;
      }
    };
  }

  static byte[] bytes(int length) {
    byte[] bytes = new byte[length];
    RANDOM.nextBytes(bytes);
    return bytes;
  }

  static Object shown(Schema schema, Object value) {
    return switch (schema.getType()) {
      case UNION -> shown(schema.getTypes().get(GenericData.get().resolveUnion(schema, value)), value);
      case RECORD -> {
        Map<String, Object> fields = new LinkedHashMap<>();
        for (Schema.Field field : schema.getFields()) {
          fields.put(field.name(), shown(field.schema(), ((GenericData.Record) value).get(field.pos())));
        }
        yield fields;
      }
      case ARRAY -> ((List<?>) value).stream().map(item -> shown(schema.getElementType(), item)).toList();
      case MAP -> {
        Map<String, Object> entries = new java.util.TreeMap<>();
        ((Map<?, ?>) value).forEach((key, item) -> entries.put(key.toString(), shown(schema.getValueType(), item)));
        yield entries;
      }
      case BYTES -> {
        ByteBuffer bytes = ((ByteBuffer) value).duplicate();
        byte[] copy = new byte[bytes.remaining()];
        bytes.get(copy);
        yield new String(copy, StandardCharsets.ISO_8859_1);
      }
      case FIXED -> new String(((GenericData.Fixed) value).bytes(), StandardCharsets.ISO_8859_1);
      case STRING, ENUM -> value.toString();
      case FLOAT -> ((Number) value).doubleValue();
      default -> value;
    };
  }
}
