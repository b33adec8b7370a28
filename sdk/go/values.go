package penstock

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"unicode/utf8"

	pb "penstock.dev/sdk/go/penstock/v1"
)

// A TypedValue is an argument that travels as one of machinery's 29 types.
type TypedValue struct {
	Type  string
	Value any
}

// Typed says as which of machinery's types a value travels, where that is not the
// type of its Go name: Typed("int", 5) for a Go worker's handler that takes an int,
// Typed("uint8", 5), Typed("[]float32", []float64{0.5}). The types are bool, int, int8,
// int16, int32, int64, uint, uint8, uint16, uint32, uint64, float32, float64, string,
// each of these with [] before it, and []byte. Whether the value fits is for the
// gateway to say.
func Typed(typeName string, value any) TypedValue {
	return TypedValue{Type: typeName, Value: value}
}

// encode is a Go value as an argument; the error's text goes on after "cannot be an
// argument".
func encode(value any) (*pb.Value, error) {
	if typed, ok := value.(TypedValue); ok {
		out, err := encodeAs(wireKind(typed.Type), reflect.ValueOf(typed.Value))
		if err != nil {
			return nil, err
		}
		out.Type = typed.Type
		return out, nil
	}
	v := reflect.ValueOf(value)
	out, err := encodeAs("", v)
	if err != nil {
		return nil, err
	}
	// int and uint are 64 bits wide, and travel so; a narrower type says its name.
	element := v.Type()
	prefix := ""
	if element.Kind() == reflect.Slice {
		element, prefix = element.Elem(), "[]"
	}
	switch element.Kind() {
	case reflect.Uint8:
		if prefix == "" {
			out.Type = "uint8"
		}
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Uint16, reflect.Uint32,
		reflect.Float32:
		out.Type = prefix + element.Kind().String()
	}
	return out, nil
}

// wireKind is which kind of value carries a type: "bool", "int", "uint", "float",
// "string", "bytes", the lists with [] before it; "" where that is not known.
func wireKind(typeName string) string {
	if typeName == "[]byte" || typeName == "[]uint8" {
		return "bytes"
	}
	element, list := strings.CutPrefix(typeName, "[]")
	kind := ""
	switch element {
	case "bool", "string":
		kind = element
	case "int", "int8", "int16", "int32", "int64":
		kind = "int"
	case "uint", "uint8", "uint16", "uint32", "uint64":
		kind = "uint"
	case "float32", "float64":
		kind = "float"
	}
	if list && kind != "" {
		return "[]" + kind
	}
	return kind
}

// nativeKind is which kind of value a Go type is of its own.
func nativeKind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "bool"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "int"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "uint"
	case reflect.Float32, reflect.Float64:
		return "float"
	case reflect.String:
		return "string"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "bytes"
		}
		if kind := nativeKind(t.Elem()); kind != "" && kind[0] != '[' && kind != "bytes" {
			return "[]" + kind
		}
	}
	return ""
}

func encodeAs(kind string, v reflect.Value) (*pb.Value, error) {
	if !v.IsValid() {
		return nil, fmt.Errorf("nil is no value")
	}
	if kind == "" {
		if kind = nativeKind(v.Type()); kind == "" {
			return nil, fmt.Errorf("a %s is none of bool, whole number, float, string, "+
				"[]byte or a slice of these", v.Type())
		}
	}
	out := &pb.Value{}
	var err error
	switch kind {
	case "bool":
		var one bool
		one, err = asBool(v)
		out.Kind = &pb.Value_BoolValue{BoolValue: one}
	case "int":
		var one int64
		one, err = asInt(v)
		out.Kind = &pb.Value_IntValue{IntValue: one}
	case "uint":
		var one uint64
		one, err = asUint(v)
		out.Kind = &pb.Value_UintValue{UintValue: one}
	case "float":
		var one float64
		one, err = asFloat(v)
		out.Kind = &pb.Value_FloatValue{FloatValue: one}
	case "string":
		var one string
		one, err = asText(v)
		out.Kind = &pb.Value_StringValue{StringValue: one}
	case "bytes":
		var all []byte
		all, err = asList(v, asByte)
		out.Kind = &pb.Value_BytesValue{BytesValue: all}
	case "[]bool":
		var all []bool
		all, err = asList(v, asBool)
		out.Kind = &pb.Value_Bools{Bools: &pb.BoolList{Values: all}}
	case "[]int":
		var all []int64
		all, err = asList(v, asInt)
		out.Kind = &pb.Value_Ints{Ints: &pb.IntList{Values: all}}
	case "[]uint":
		var all []uint64
		all, err = asList(v, asUint)
		out.Kind = &pb.Value_Uints{Uints: &pb.UintList{Values: all}}
	case "[]float":
		var all []float64
		all, err = asList(v, asFloat)
		out.Kind = &pb.Value_Floats{Floats: &pb.FloatList{Values: all}}
	case "[]string":
		var all []string
		all, err = asList(v, asText)
		out.Kind = &pb.Value_Strings{Strings: &pb.StringList{Values: all}}
	}
	return out, err
}

func mismatch(v reflect.Value, what string) error {
	return fmt.Errorf("%v (a %s) is not %s", v, v.Type(), what)
}

func asBool(v reflect.Value) (bool, error) {
	if v.Kind() != reflect.Bool {
		return false, mismatch(v, "a bool")
	}
	return v.Bool(), nil
}

func asInt(v reflect.Value) (int64, error) {
	switch {
	case v.CanInt():
		return v.Int(), nil
	case v.CanUint() && v.Uint() <= math.MaxInt64:
		return int64(v.Uint()), nil
	}
	return 0, mismatch(v, "a signed whole number of 64 bits")
}

func asUint(v reflect.Value) (uint64, error) {
	switch {
	case v.CanUint():
		return v.Uint(), nil
	case v.CanInt() && v.Int() >= 0:
		return uint64(v.Int()), nil
	}
	return 0, mismatch(v, "an unsigned whole number of 64 bits")
}

func asByte(v reflect.Value) (byte, error) {
	number, err := asUint(v)
	if err != nil || number > math.MaxUint8 {
		return 0, mismatch(v, "a byte")
	}
	return byte(number), nil
}

// Whole numbers are floats where none of their digits would be lost.
func asFloat(v reflect.Value) (float64, error) {
	const exact = 1 << 53
	switch {
	case v.CanFloat():
		return v.Float(), nil
	case v.CanInt() && -exact <= v.Int() && v.Int() <= exact:
		return float64(v.Int()), nil
	case v.CanUint() && v.Uint() <= exact:
		return float64(v.Uint()), nil
	}
	return 0, mismatch(v, "a float")
}

func asText(v reflect.Value) (string, error) {
	if v.Kind() != reflect.String {
		return "", mismatch(v, "a string")
	}
	if !utf8.ValidString(v.String()) {
		return "", fmt.Errorf("%q is not UTF-8; send it as []byte", v.String())
	}
	return v.String(), nil
}

func asList[T any](v reflect.Value, one func(reflect.Value) (T, error)) ([]T, error) {
	if v.Kind() != reflect.Slice {
		return nil, mismatch(v, "a slice")
	}
	all := make([]T, v.Len())
	for i := range all {
		var err error
		if all[i], err = one(v.Index(i)); err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
	}
	return all, nil
}

// decode is a result as a Go value.
func decode(value *pb.Value) any {
	switch kind := value.GetKind().(type) {
	case *pb.Value_BoolValue:
		return kind.BoolValue
	case *pb.Value_IntValue:
		return kind.IntValue
	case *pb.Value_UintValue:
		return kind.UintValue
	case *pb.Value_FloatValue:
		return kind.FloatValue
	case *pb.Value_StringValue:
		return kind.StringValue
	case *pb.Value_BytesValue:
		return notNil(kind.BytesValue)
	case *pb.Value_Bools:
		return notNil(kind.Bools.GetValues())
	case *pb.Value_Ints:
		return notNil(kind.Ints.GetValues())
	case *pb.Value_Uints:
		return notNil(kind.Uints.GetValues())
	case *pb.Value_Floats:
		return notNil(kind.Floats.GetValues())
	case *pb.Value_Strings:
		return notNil(kind.Strings.GetValues())
	}
	return nil
}

func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// assign stores a result, as decode made it, where dest points to.
func assign(dest, value any) error {
	pointer := reflect.ValueOf(dest)
	if pointer.Kind() != reflect.Pointer || pointer.IsNil() {
		return fmt.Errorf("cannot be stored in a %T, which is no pointer", dest)
	}
	if !store(pointer.Elem(), reflect.ValueOf(value)) {
		return fmt.Errorf("%v (a %T) does not fit in a %s", value, value, pointer.Elem().Type())
	}
	return nil
}

// store sets `to` where it holds the value without loss.
func store(to, value reflect.Value) bool {
	if !value.IsValid() {
		return false
	}
	switch to.Kind() {
	case reflect.Interface:
		if !value.Type().AssignableTo(to.Type()) {
			return false
		}
		to.Set(value)
		return true
	case reflect.Bool:
		if value.Kind() != reflect.Bool {
			return false
		}
		to.SetBool(value.Bool())
		return true
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		number, err := asInt(value)
		if err != nil || to.OverflowInt(number) {
			return false
		}
		to.SetInt(number)
		return true
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		number, err := asUint(value)
		if err != nil || to.OverflowUint(number) {
			return false
		}
		to.SetUint(number)
		return true
	case reflect.Float32, reflect.Float64:
		if !value.CanFloat() {
			return false
		}
		to.SetFloat(value.Float())
		return to.Float() == value.Float()
	case reflect.String:
		if value.Kind() != reflect.String {
			return false
		}
		to.SetString(value.String())
		return true
	case reflect.Slice:
		if value.Kind() != reflect.Slice {
			return false
		}
		list := reflect.MakeSlice(to.Type(), value.Len(), value.Len())
		for i := range value.Len() {
			if !store(list.Index(i), value.Index(i)) {
				return false
			}
		}
		to.Set(list)
		return true
	}
	return false
}
