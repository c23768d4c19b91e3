package model

import (
	"maps"
	"reflect"
	"slices"
)

// With returns the spec with a change made. The spec itself stays as it is.
func (s Spec) With(c Change) Spec {
	spec := s
	assign(&spec.VCPUs, c.VCPUs)
	assign(&spec.Memory, c.Memory)
	assign(&spec.DiskSize, c.DiskSize)
	assign(&spec.WorkDiskSize, c.WorkDiskSize)
	assign(&spec.Net, c.Net)
	assign(&spec.Workdir, c.Workdir)
	assign(&spec.User, c.User)
	assign(&spec.IdleSuspend, c.IdleSuspend)
	assign(&spec.Kernel, c.Kernel)
	assign(&spec.Image, c.Image)
	spec.Env = merge(spec.Env, c.Env)
	for _, name := range c.UnsetEnv {
		delete(spec.Env, name)
	}
	spec.Labels = merge(spec.Labels, c.Labels)
	maps.DeleteFunc(spec.Labels, func(_, value string) bool { return value == "" })
	return spec
}

func assign[T any](to *T, v *T) {
	if v != nil {
		*to = *v
	}
}

func merge(base, more map[string]string) map[string]string {
	merged := map[string]string{}
	maps.Copy(merged, base)
	maps.Copy(merged, more)
	return merged
}

// Fill turns a request into a spec: s has the value of each field that the request leaves open.
func (s Spec) Fill(req Create) Spec {
	s.Name, s.Remove, s.Labels = req.Name, req.Remove, req.Labels
	set(&s.Image, req.Image)
	set(&s.Kernel, req.Kernel)
	if req.VCPUs != nil {
		s.VCPUs = *req.VCPUs
	}
	set(&s.Memory, req.Memory)
	set(&s.DiskSize, req.DiskSize)
	if req.WorkDiskSize != nil {
		s.WorkDiskSize = *req.WorkDiskSize
	}
	set(&s.Net, req.Net)
	set(&s.Workdir, req.Workdir)
	set(&s.User, req.User)
	set(&s.IdleSuspend, req.IdleSuspend)
	s.Env = maps.Clone(s.Env)
	if s.Env == nil {
		s.Env = map[string]string{}
	}
	maps.Copy(s.Env, req.Env)
	return s
}

func set[T comparable](to *T, v T) {
	var zero T
	if v != zero {
		*to = v
	}
}

// ChangedFields lists the JSON names of the fields in which two specs differ, in the order of the
// struct. The pinned ids follow their references and are not listed.
func ChangedFields(old, next Spec) []string {
	var names []string
	a, b := reflect.ValueOf(old), reflect.ValueOf(next)
	for i := range a.NumField() {
		field := a.Type().Field(i)
		if field.Name == "ImageID" || field.Name == "KernelID" {
			continue
		}
		if !reflect.DeepEqual(normal(a.Field(i)), normal(b.Field(i))) {
			names = append(names, jsonName(field))
		}
	}
	return names
}

// WithFields is the spec with the named fields of another one.
func (s Spec) WithFields(from Spec, names []string) Spec {
	spec := s
	to, v := reflect.ValueOf(&spec).Elem(), reflect.ValueOf(from)
	for i := range v.NumField() {
		if slices.Contains(names, jsonName(v.Type().Field(i))) {
			to.Field(i).Set(v.Field(i))
		}
	}
	return spec
}

// normal makes a nil map and an empty one the same.
func normal(v reflect.Value) any {
	if v.Kind() == reflect.Map && v.Len() == 0 {
		return nil
	}
	return v.Interface()
}

func jsonName(f reflect.StructField) string {
	name := f.Tag.Get("json")
	for i := range name {
		if name[i] == ',' {
			return name[:i]
		}
	}
	return name
}

// For is the spec of a machine, as owned by another VM or by a later state of the same: the name,
// the labels and the removal policy are the owner's.
func (s Spec) For(owner Spec) Spec {
	s.Name, s.Labels, s.Remove = owner.Name, owner.Labels, owner.Remove
	return s
}

// ForeignFor is For of a spec that somebody else wrote. What reaches the host's network, and what
// the guest's commands get from the owner, stays the owner's too.
func (s Spec) ForeignFor(owner Spec) Spec {
	s = s.For(owner)
	s.Net, s.Env, s.User, s.Workdir, s.IdleSuspend = owner.Net, maps.Clone(owner.Env), owner.User, owner.Workdir, owner.IdleSuspend
	return s
}
