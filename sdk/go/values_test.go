package penstock

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "penstock.dev/sdk/go/penstock/v1"
)

type celsius float64

func intValue(typeName string, n int64) *pb.Value {
	return &pb.Value{Type: typeName, Kind: &pb.Value_IntValue{IntValue: n}}
}

func uintValue(typeName string, n uint64) *pb.Value {
	return &pb.Value{Type: typeName, Kind: &pb.Value_UintValue{UintValue: n}}
}

func floatValue(typeName string, x float64) *pb.Value {
	return &pb.Value{Type: typeName, Kind: &pb.Value_FloatValue{FloatValue: x}}
}

func TestArgumentsTravelAsTheTypeOfTheirName(t *testing.T) {
	for _, c := range []struct {
		in   any
		want *pb.Value
	}{
		{true, &pb.Value{Kind: &pb.Value_BoolValue{BoolValue: true}}},
		{5, intValue("", 5)},
		{int64(math.MinInt64), intValue("", math.MinInt64)},
		{int8(-5), intValue("int8", -5)},
		{int32(7), intValue("int32", 7)},
		{uint(5), uintValue("", 5)},
		{uint64(math.MaxUint64), uintValue("", math.MaxUint64)},
		{uint8(200), uintValue("uint8", 200)},
		{uint16(200), uintValue("uint16", 200)},
		{0.5, floatValue("", 0.5)},
		{float32(0.1), floatValue("float32", float64(float32(0.1)))},
		{celsius(20.5), floatValue("", 20.5)},
		{"zwölf", &pb.Value{Kind: &pb.Value_StringValue{StringValue: "zwölf"}}},
		{[]byte{0, 255}, &pb.Value{Kind: &pb.Value_BytesValue{BytesValue: []byte{0, 255}}}},
		{[]bool{true, false}, &pb.Value{Kind: &pb.Value_Bools{Bools: &pb.BoolList{Values: []bool{true, false}}}}},
		{[]int{1, 2}, &pb.Value{Kind: &pb.Value_Ints{Ints: &pb.IntList{Values: []int64{1, 2}}}}},
		{[]int64{}, &pb.Value{Kind: &pb.Value_Ints{Ints: &pb.IntList{}}}},
		{[]int16{1}, &pb.Value{Type: "[]int16", Kind: &pb.Value_Ints{Ints: &pb.IntList{Values: []int64{1}}}}},
		{[]uint64{1}, &pb.Value{Kind: &pb.Value_Uints{Uints: &pb.UintList{Values: []uint64{1}}}}},
		{[]float32{0.5}, &pb.Value{Type: "[]float32", Kind: &pb.Value_Floats{Floats: &pb.FloatList{Values: []float64{0.5}}}}},
		{[]string{"a"}, &pb.Value{Kind: &pb.Value_Strings{Strings: &pb.StringList{Values: []string{"a"}}}}},
		{Typed("int", 5), intValue("int", 5)},
		{Typed("uint8", 5), uintValue("uint8", 5)},
		{Typed("int64", uint8(5)), intValue("int64", 5)},
		{Typed("float64", 5), floatValue("float64", 5)},
		{Typed("[]uint8", []int{1, 2}), &pb.Value{Type: "[]uint8", Kind: &pb.Value_BytesValue{BytesValue: []byte{1, 2}}}},
		{Typed("[]byte", []byte{}), &pb.Value{Type: "[]byte", Kind: &pb.Value_BytesValue{BytesValue: []byte{}}}},
		// What fits is for the gateway to say, which names the field.
		{Typed("int8", 300), intValue("int8", 300)},
		{Typed("decimal", 5), intValue("decimal", 5)},
	} {
		got, err := encode(c.in)
		if err != nil || !proto.Equal(got, c.want) {
			t.Errorf("%T %v: got %v, %v; want %v", c.in, c.in, got, err, c.want)
		}
	}
}

func TestValuesThatNoTaskTakesAreRefused(t *testing.T) {
	for _, value := range []any{nil, map[string]int{}, struct{}{}, &struct{}{}, []any{1},
		[][]int{{1}}, [2]int{}, "\xff", []string{"ok", "\xff"}, complex(1, 1),
		Typed("int64", uint64(math.MaxUint64)), Typed("uint64", -1), Typed("string", 5),
		Typed("bool", "true"), Typed("int64", 0.5), Typed("[]byte", []int{256}),
		Typed("float64", int64(1<<53+1)), Typed("[]int64", 5), Typed("int64", nil)} {
		_, err := NewTask("add", 1, value).encode()
		var refused *ValueError
		if !errors.As(err, &refused) || refused.Where != "argument 2 of task add" {
			t.Errorf("%T %v: got %v", value, value, err)
		}
	}
}

func TestResultsAreStoredWhereTheyFit(t *testing.T) {
	for _, c := range []struct{ value, want any }{
		{int64(5), int(5)}, {int64(-128), int8(-128)}, {uint64(7), int64(7)}, {int64(7), uint8(7)},
		{uint64(math.MaxUint64), uint64(math.MaxUint64)}, {0.5, 0.5}, {0.5, float32(0.5)},
		{20.5, celsius(20.5)}, {true, true}, {"a", "a"}, {[]byte{1}, []byte{1}},
		{[]int64{1, 2}, []int{1, 2}}, {[]int64{}, []int64{}}, {[]string{"a"}, []string{"a"}},
		{[]int64{1, 2}, []any{int64(1), int64(2)}},
	} {
		dest := reflect.New(reflect.TypeOf(c.want))
		if err := assign(dest.Interface(), c.value); err != nil {
			t.Errorf("%v into %T: %v", c.value, c.want, err)
		} else if got := dest.Elem().Interface(); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v: got %T %v, want %T %v", c.value, got, got, c.want, c.want)
		}
	}
	var anything any
	if err := assign(&anything, int64(5)); err != nil || anything != int64(5) {
		t.Error(anything, err)
	}
	for _, c := range []struct{ value, dest any }{
		{int64(128), new(int8)}, {int64(-1), new(uint64)}, {uint64(math.MaxInt64 + 1), new(int64)},
		{0.1, new(float32)}, {1e300, new(float32)}, {0.5, new(int)}, {int64(5), new(float64)},
		{"5", new(int)}, {int64(5), new(string)}, {"a", new([]byte)}, {[]int64{300}, new([]uint8)},
		{true, new(int)}, {int64(5), 5}, {int64(5), (*int)(nil)}, {int64(5), nil},
		{int64(5), new(struct{})}, {int64(5), new(error)},
	} {
		if err := assign(c.dest, c.value); err == nil {
			t.Errorf("%T %v was stored in a %T", c.value, c.value, c.dest)
		}
	}
}

func TestResultSaysWhichResultDoesNotFit(t *testing.T) {
	state := &State{TaskID: "t", Status: Success, Results: []any{int64(300), "text"}}
	var small int8
	var text string
	err := state.Result(&small, &text)
	if err == nil || !strings.Contains(err.Error(), "result 1 of task t: 300") {
		t.Error(err)
	}
	if err := state.Result(&text); err == nil || !strings.Contains(err.Error(), "returned 2 results, not 1") {
		t.Error(err)
	}
	var big int64
	if err := state.Result(&big, &text); err != nil || big != 300 || text != "text" {
		t.Error(err, big, text)
	}
	if err := state.Result(); err != nil {
		t.Error(err)
	}
}
