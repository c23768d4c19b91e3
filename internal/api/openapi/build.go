package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/swaggest/jsonschema-go"
	"github.com/swaggest/openapi-go"
	"github.com/swaggest/openapi-go/openapi31"

	"banger/internal/api"
	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/step"
)

// wirePackages hold the wire types.
var wirePackages = []string{
	"banger/internal/api", "banger/internal/model", "banger/internal/step", "banger/internal/guest/proto", "banger/internal/fault",
}

const description = `banger's daemon listens on a unix socket. It accepts its own user and root:

    curl --unix-socket "$XDG_RUNTIME_DIR/banger/bangerd.sock" http://banger/v1/version

Errors are problem documents (RFC 9457). Some operations answer with server-sent events if the request accepts
text/event-stream: any number of "step" events, then one "result" or "problem". Streams are upgrades to "banger-stream".
A {ref} is a name, an id, or a unique prefix of an id; write a slash in it as %2F. The header Banger-Request-Id names a
request: in each answer, and in the request if the client chooses the id.`

// build makes the document. The same source gives the same bytes.
func build(root string) ([]byte, error) {
	docs, err := readComments(root, wirePackages)
	if err != nil {
		return nil, err
	}
	r := openapi31.NewReflector()
	r.Spec.Info.WithTitle("banger").WithVersion(fmt.Sprint(api.Generation)).WithDescription(description)
	r.Spec.WithServers(openapi31.Server{URL: "http://" + api.Host})
	r.DefaultOptions = append(r.DefaultOptions,
		jsonschema.InterceptDefName(func(t reflect.Type, _ string) string { return schemaName(t) }),
		jsonschema.InterceptSchema(docs.describe),
	)
	for _, op := range api.Operations() {
		if err := add(r, op); err != nil {
			return nil, fmt.Errorf("operation %s: %w", op.ID, err)
		}
	}
	if err := addStreamed(r); err != nil {
		return nil, err
	}
	data, err := r.Spec.MarshalJSON()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, data, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// addStreamed adds the types in events and frames, which no operation of an OpenAPI document refers
// to.
func addStreamed(r *openapi31.Reflector) error {
	var failed error
	collect := func(name string, schema jsonschema.Schema) {
		m, err := schema.ToSchemaOrBool().ToSimpleMap()
		failed = errors.Join(failed, err)
		r.Spec.ComponentsEns().WithSchemasItem(name, m)
	}
	for _, v := range []any{step.Event{}, api.Run{}, proto.ExecRequest{}, proto.Exit{}, proto.Size{}, proto.Error{}} {
		_, err := r.Reflect(v, jsonschema.RootRef, jsonschema.CollectDefinitions(collect),
			jsonschema.DefinitionsPrefix("#/components/schemas/"))
		if err != nil {
			return err
		}
	}
	return failed
}

// schemaName returns the type's own name. Types of the guest's protocol and of package step get a
// prefix, because other packages use the same names.
func schemaName(t reflect.Type) string {
	if t.PkgPath() == reflect.TypeFor[proto.Stats]().PkgPath() {
		return "Guest" + t.Name()
	}
	if strings.HasSuffix(t.PkgPath(), "/step") {
		return "Step" + t.Name()
	}
	return t.Name()
}

// describe puts the source's comments into a schema, and the wire form of types that reflection
// cannot know.
func (c *comments) describe(p jsonschema.InterceptSchemaParams) (stop bool, err error) {
	t := p.Value.Type()
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == reflect.TypeFor[model.Bytes]() {
		p.Schema.WithType(jsonschema.Integer.Type()).WithFormat("int64").
			WithDescription("Bytes. Requests may hold a text such as \"8G\" instead.")
		return true, nil
	}
	if t == reflect.TypeFor[time.Duration]() {
		p.Schema.WithType(jsonschema.Integer.Type()).WithFormat("int64").WithDescription("Nanoseconds.")
		return true, nil
	}
	if !p.Processed || t.Name() == "" {
		return false, nil
	}
	if text := c.types[typeName(t)]; text != "" {
		p.Schema.WithDescription(text)
	}
	for _, value := range c.enums[typeName(t)] {
		p.Schema.Enum = append(p.Schema.Enum, value)
	}
	if t.Kind() == reflect.Struct {
		c.describeFields(t, p.Schema)
	}
	return false, nil
}

func (c *comments) describeFields(t reflect.Type, schema *jsonschema.Schema) {
	for i := range t.NumField() {
		field := t.Field(i)
		name, rest, _ := strings.Cut(field.Tag.Get("json"), ",")
		property, ok := schema.Properties[name]
		if !ok || property.TypeObject == nil {
			continue
		}
		if !strings.Contains(rest, "omitempty") {
			schema.Required = append(schema.Required, name)
		}
		if text := c.fields[typeName(t)+"."+field.Name]; text != "" {
			property.TypeObject.WithDescription(text)
		}
	}
}

// add describes one operation.
func add(r *openapi31.Reflector, op api.Operation) error {
	oc, err := r.NewOperationContext(op.Method, op.Path)
	if err != nil {
		return err
	}
	oc.SetID(op.ID)
	oc.SetSummary(op.Summary)
	oc.SetTags(tag(op.Path))
	if strings.Contains(op.Path, "{ref}") {
		oc.AddReqStructure(new(struct {
			Ref string `path:"ref" description:"A name, an id, or a unique prefix of an id."`
		}))
	}
	if strings.Contains(op.Path, "{name}") {
		oc.AddReqStructure(new(struct {
			Name string `path:"name" description:"A profile's name."`
		}))
	}
	if op.Query != nil {
		oc.AddReqStructure(op.Query)
	}
	switch op.Kind {
	case api.KindJSON, api.KindSteps:
		addJSON(oc, op)
	case api.KindBytes:
		oc.AddRespStructure(nil, openapi.WithHTTPStatus(http.StatusOK), openapi.WithContentType(mediaOf(op)))
	case api.KindUpload:
		oc.AddReqStructure("", openapi.WithContentType(mediaOf(op)))
		addResponse(oc, op)
	case api.KindImport:
		oc.AddReqStructure("", openapi.WithContentType(mediaOf(op)))
		addSteps(oc, op)
	case api.KindFrames, api.KindRaw:
		addStream(oc, op)
	}
	oc.AddRespStructure(api.Problem{}, func(cu *openapi.ContentUnit) { cu.IsDefault = true },
		openapi.WithContentType("application/problem+json"))
	return r.AddOperation(oc)
}

func addJSON(oc openapi.OperationContext, op api.Operation) {
	if op.Request != nil {
		oc.AddReqStructure(op.Request)
	}
	if op.Kind == api.KindSteps {
		addSteps(oc, op)
	} else {
		addResponse(oc, op)
	}
}

// addSteps describes an answer that is JSON or server-sent events.
func addSteps(oc openapi.OperationContext, op api.Operation) {
	addResponse(oc, op)
	oc.SetDescription("Answers with server-sent events if the request accepts them. StepEvent is the data of a step.")
	oc.AddRespStructure("", openapi.WithHTTPStatus(http.StatusOK), openapi.WithContentType(api.MediaSSE))
}

func addResponse(oc openapi.OperationContext, op api.Operation) {
	if op.Response == nil {
		oc.AddRespStructure(nil, openapi.WithHTTPStatus(http.StatusNoContent))
		return
	}
	oc.AddRespStructure(op.Response, openapi.WithHTTPStatus(http.StatusOK))
}

func addStream(oc openapi.OperationContext, op api.Operation) {
	text := "An upgrade to " + proto.StreamProtocol + ": bytes both ways."
	if op.Kind == api.KindFrames {
		text = fmt.Sprintf("An upgrade to %s: frames both ways, the first one with a %s as JSON.",
			proto.StreamProtocol, schemaName(reflect.TypeOf(op.Request)))
	}
	oc.AddRespStructure(nil, openapi.WithHTTPStatus(http.StatusSwitchingProtocols))
	if op.Call != nil {
		text += " Without an upgrade: a plain call with a JSON body and a JSON answer."
		oc.AddReqStructure(op.Call)
		addResponse(oc, op)
	}
	oc.SetDescription(text)
}

func mediaOf(op api.Operation) string {
	switch op.ID {
	case "openapi":
		return "application/json"
	case "metrics", "goroutines", "profiles":
		return "text/plain"
	case "getFiles", "putFiles":
		return "application/x-tar"
	}
	return "application/octet-stream"
}

// tag returns the collection that a path belongs to.
func tag(path string) string {
	part, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if part != "v1" {
		return "debug"
	}
	switch part, _, _ = strings.Cut(rest, "/"); part {
	case "vms", "images", "kernels", "snapshots", "templates":
		return part
	case "run":
		return "vms"
	}
	return "daemon"
}
