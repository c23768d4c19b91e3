package api

import _ "embed"

//go:generate go run ./openapi -o openapi.json

// document describes the API (OpenAPI 3.1). Package openapi makes it from Operations, and a test
// fails if it is stale.
//
//go:embed openapi.json
var document []byte

// Document returns the OpenAPI document. The caller does not change it.
func Document() []byte { return document }
