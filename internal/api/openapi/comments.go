package main

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strings"
)

// comments holds the source's comments on types and fields, and the constants of string types.
type comments struct {
	types  map[string]string   // by "banger/internal/model.VM"
	fields map[string]string   // by "banger/internal/model.VM.ID"
	enums  map[string][]string // values in the order of the source, by type
}

// readComments parses the packages of the wire types.
func readComments(root string, packages []string) (*comments, error) {
	c := &comments{types: map[string]string{}, fields: map[string]string{}, enums: map[string][]string{}}
	fset := token.NewFileSet()
	for _, pkg := range packages {
		files, err := filepath.Glob(filepath.Join(root, strings.TrimPrefix(pkg, "banger/"), "*.go"))
		if err != nil {
			return nil, err
		}
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return nil, fmt.Errorf("reading comments: %w", err)
			}
			c.file(pkg, file)
		}
	}
	return c, nil
}

func (c *comments) file(pkg string, file *ast.File) {
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range gen.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				c.typ(pkg+"."+spec.Name.Name, gen, spec)
			case *ast.ValueSpec:
				c.value(pkg, spec)
			}
		}
	}
}

func (c *comments) typ(name string, gen *ast.GenDecl, spec *ast.TypeSpec) {
	doc := spec.Doc
	if doc == nil {
		doc = gen.Doc
	}
	c.types[name] = sentence(doc)
	st, ok := spec.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, field := range st.Fields.List {
		text := sentence(field.Doc)
		if text == "" {
			text = sentence(field.Comment)
		}
		for _, ident := range field.Names {
			c.fields[name+"."+ident.Name] = text
		}
	}
}

// value collects constants that have a type and a string value.
func (c *comments) value(pkg string, spec *ast.ValueSpec) {
	ident, ok := spec.Type.(*ast.Ident)
	if !ok {
		return
	}
	for _, v := range spec.Values {
		if lit, ok := v.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			value := constant.StringVal(constant.MakeFromLiteral(lit.Value, token.STRING, 0))
			name := pkg + "." + ident.Name
			c.enums[name] = append(c.enums[name], value)
		}
	}
}

// sentence returns a comment as one line.
func sentence(group *ast.CommentGroup) string {
	return strings.Join(strings.Fields(group.Text()), " ")
}

func typeName(t reflect.Type) string { return t.PkgPath() + "." + t.Name() }
