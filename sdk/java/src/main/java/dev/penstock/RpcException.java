package dev.penstock;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.io.Serializable;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * A call of the gateway failed: it was refused, or could not be carried out though it was repeated
 * as long as the retry budget allowed. The reasons are told in gateway.proto.
 */
public class RpcException extends PenstockException {
  private static final long serialVersionUID = 1;

  private final Status.Code code;
  private final String description;
  private String reason = "";
  private Map<String, String> metadata = Map.of();
  private List<FieldViolation> fieldViolations = List.of();
  private Duration retryDelay;

  /** What is wrong with a field of a request. */
  public static final class FieldViolation implements Serializable {
    private static final long serialVersionUID = 1;

    private final String field;
    private final String description;

    private FieldViolation(String field, String description) {
      this.field = field;
      this.description = description;
    }

    /** The path of the field, such as "task.args[0].int_value". */
    public String field() {
      return field;
    }

    /** What is wrong with it. */
    public String description() {
      return description;
    }

    @Override
    public String toString() {
      return field + ": " + description;
    }
  }

  RpcException(Status.Code code, String reason, String description, Throwable cause) {
    super(code + (reason.isEmpty() ? "" : " " + reason) + ": " + description, cause);
    this.code = code;
    this.reason = reason;
    this.description = description;
  }

  /** Of a call that ended so. */
  static RpcException of(Throwable error) {
    if (error instanceof RpcException) return (RpcException) error;
    Metadata trailers = Status.trailersFromThrowable(error);
    return of(
        StatusProto.fromStatusAndTrailers(
            Status.fromThrowable(error), trailers == null ? new Metadata() : trailers),
        error);
  }

  /** Of a status with its details, which an answer may hold too. */
  static RpcException of(com.google.rpc.Status status, Throwable cause) {
    String reason = "";
    Map<String, String> metadata = Map.of();
    Duration retryDelay = null;
    List<FieldViolation> violations = new ArrayList<>();
    for (Any detail : status.getDetailsList()) {
      try {
        if (detail.is(ErrorInfo.class)) {
          ErrorInfo info = detail.unpack(ErrorInfo.class);
          reason = info.getReason();
          metadata = Map.copyOf(info.getMetadataMap());
        } else if (detail.is(BadRequest.class)) {
          detail
              .unpack(BadRequest.class)
              .getFieldViolationsList()
              .forEach(v -> violations.add(new FieldViolation(v.getField(), v.getDescription())));
        } else if (detail.is(RetryInfo.class)) {
          retryDelay = Protos.duration(detail.unpack(RetryInfo.class).getRetryDelay());
        }
      } catch (InvalidProtocolBufferException unreadable) {
        // A detail that cannot be read must not hide the error itself.
        continue;
      }
    }
    RpcException error =
        new RpcException(
            Status.fromCodeValue(status.getCode()).getCode(), reason, status.getMessage(), cause);
    error.metadata = metadata;
    error.retryDelay = retryDelay;
    error.fieldViolations = List.copyOf(violations);
    return error;
  }

  /** The status code. */
  public Status.Code code() {
    return code;
  }

  /** The reason, such as "INVALID_FIELD" or "QUEUE_NOT_FOUND"; empty if none was told. */
  public String reason() {
    return reason;
  }

  /** The gateway's text, without the code and the reason that {@link #getMessage} begins with. */
  public String description() {
    return description;
  }

  /** More about it, by name, such as "task_id" of UNIQUE_KEY_HELD. */
  public Map<String, String> metadata() {
    return metadata;
  }

  /** Every bad field of a request that was refused with INVALID_FIELD. */
  public List<FieldViolation> fieldViolations() {
    return fieldViolations;
  }

  /** How long to wait before a repeat, if the gateway said so. */
  public Optional<Duration> retryDelay() {
    return Optional.ofNullable(retryDelay);
  }
}
