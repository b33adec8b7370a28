package penstock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A Reason is what the gateway says is wrong, in a word: that of an [Error]. The
// constants are errors too: errors.Is(err, penstock.TaskNotFound) asks whether err is
// an [*Error] of that reason. New reasons may be added.
type Reason string

// The reasons of the gateway. proto/penstock/v1/gateway.proto says which call ends
// with which.
const (
	InvalidField       Reason = "INVALID_FIELD"        // see Error.Violations
	TaskNotFound       Reason = "TASK_NOT_FOUND"       // never seen, or expired
	GroupNotFound      Reason = "GROUP_NOT_FOUND"      // never seen, or expired
	QueueNotFound      Reason = "QUEUE_NOT_FOUND"      // no queue takes the routing key
	TaskIDExists       Reason = "TASK_ID_EXISTS"       // the id belongs to another task
	GroupIDExists      Reason = "GROUP_ID_EXISTS"      // the id belongs to another group
	UniqueKeyHeld      Reason = "UNIQUE_KEY_HELD"      // Error.Metadata["task_id"] holds it
	RequestIDReused    Reason = "REQUEST_ID_REUSED"    // it belongs to another call
	RequestInProgress  Reason = "REQUEST_IN_PROGRESS"  // another call of that id goes on
	GroupPartiallySent Reason = "GROUP_PARTIALLY_SENT" // repeat the call to send the rest
	PayloadTooLarge    Reason = "PAYLOAD_TOO_LARGE"    // over a limit of size
	TooManyInFlight    Reason = "TOO_MANY_IN_FLIGHT"   // the gateway is busy
	BackendUnsupported Reason = "BACKEND_UNSUPPORTED"  // RabbitMQ keeps the states
	BackendUnavailable Reason = "BACKEND_UNAVAILABLE"  // Redis is away
	BrokerUnavailable  Reason = "BROKER_UNAVAILABLE"   // RabbitMQ is away
	BrokerNack         Reason = "BROKER_NACK"          // RabbitMQ could not take it
	ConfirmTimeout     Reason = "CONFIRM_TIMEOUT"      // RabbitMQ did not answer in time
	Draining           Reason = "DRAINING"             // this gateway stops
)

func (r Reason) Error() string { return string(r) }

// A FieldViolation says what is wrong with a field of a request.
type FieldViolation struct {
	Field       string // such as task.args[0].int_value
	Description string
}

// An Error is how a call failed. errors.Is knows it by its [Reason], and by
// context.DeadlineExceeded and context.Canceled where that is its code; the functions
// of google.golang.org/grpc/status read it too.
type Error struct {
	Code       codes.Code
	Reason     Reason // empty where no gateway gave one, such as that none was reached
	Message    string
	Metadata   map[string]string // such as task_id of UniqueKeyHeld
	Violations []FieldViolation  // of InvalidField
	RetryDelay time.Duration     // when the gateway asks to be called again; 0: it does not

	status *status.Status
}

func (e *Error) Error() string {
	name := code.Code(e.Code).String()
	if e.Reason != "" {
		name += " " + string(e.Reason)
	}
	return fmt.Sprintf("penstock: %s: %s", name, e.Message)
}

// GRPCStatus is the error as gRPC gave it.
func (e *Error) GRPCStatus() *status.Status { return e.status }

// Is tells errors.Is about reasons and about deadlines.
func (e *Error) Is(target error) bool {
	switch target {
	case context.DeadlineExceeded:
		return e.Code == codes.DeadlineExceeded
	case context.Canceled:
		return e.Code == codes.Canceled
	}
	reason, ok := target.(Reason)
	return ok && e.Reason == reason
}

// AsError is err, which a call of a generated stub returned, as an [*Error]; nil for
// nil. What is an *Error already stays what it is.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	return fromStatus(status.Convert(err))
}

func fromStatus(s *status.Status) *Error {
	e := &Error{Code: s.Code(), Message: s.Message(), status: s}
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			e.Reason, e.Metadata = Reason(d.GetReason()), d.GetMetadata()
		case *errdetails.BadRequest:
			for _, violation := range d.GetFieldViolations() {
				e.Violations = append(e.Violations, FieldViolation{
					Field: violation.GetField(), Description: violation.GetDescription()})
			}
		case *errdetails.RetryInfo:
			e.RetryDelay = d.GetRetryDelay().AsDuration()
		}
	}
	return e
}

// mayPass is whether the same call may do better in a moment.
func (e *Error) mayPass() bool {
	switch e.Code {
	case codes.Unavailable:
		return true
	case codes.Canceled:
		// Not by the caller, whose context is looked at: a gateway's gRPC ends calls
		// so that reach it in the moment in which it stops.
		return e.Reason == ""
	case codes.ResourceExhausted:
		return e.RetryDelay > 0
	case codes.DeadlineExceeded:
		return e.Reason == ConfirmTimeout
	case codes.Aborted:
		return e.Reason == GroupPartiallySent
	}
	return false
}

// A TaskError is how a task ended that did not succeed.
type TaskError struct {
	TaskID    string
	Message   string
	Type      string // such as "exception", "timeout", "cancelled"; see the contract's TaskError
	Cancelled bool   // it was cancelled; otherwise it failed
}

func (e *TaskError) Error() string {
	verb := "failed"
	if e.Cancelled {
		verb = "was cancelled"
	}
	return fmt.Sprintf("penstock: task %s %s: %s", e.TaskID, verb, e.Message)
}

// A ValueError is about a value that no task can take, or a result that does not fit
// where it is to go. It comes from the client itself.
type ValueError struct {
	Where  string // such as "argument 2 of task add"
	Reason string
}

func (e *ValueError) Error() string { return "penstock: " + e.Where + ": " + e.Reason }
