"""The messages and stubs that protoc makes of proto/penstock/v1."""
