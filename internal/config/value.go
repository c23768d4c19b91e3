package config

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"banger/internal/model"
)

// parse reads text as a value of the type that dst points to.
func parse(dst any, text string) (err error) {
	switch p := dst.(type) {
	case *string:
		*p = text
	case *model.NetMode:
		*p = model.NetMode(text)
	case *model.Bytes:
		*p, err = model.ParseBytes(text)
	case *model.Reserve:
		*p, err = model.ParseReserve(text)
	case *int:
		if *p, err = strconv.Atoi(text); err != nil {
			err = fmt.Errorf("%.100q is not a whole number", text)
		}
	case *bool:
		if *p, err = strconv.ParseBool(text); err != nil {
			err = fmt.Errorf("%.100q is neither true nor false", text)
		}
	case *time.Duration:
		if *p, err = time.ParseDuration(text); err != nil {
			err = fmt.Errorf("%.100q is not a duration with a unit, such as 30s or 2m", text)
		}
	case *slog.Level:
		err = p.UnmarshalText([]byte(text))
	default:
		err = fmt.Errorf("reading a %T is not implemented", dst)
	}
	return err
}

// text returns the setting's value in the form that set reads.
func (k key) text(c *Config) string {
	switch p := k.at(c).(type) {
	case *string:
		return *p
	case *model.NetMode:
		return string(*p)
	case *model.Bytes:
		if *p == 0 {
			return "0"
		}
		return exact(*p)
	case *model.Reserve:
		return p.String()
	case *int:
		return strconv.Itoa(*p)
	case *bool:
		return strconv.FormatBool(*p)
	case *time.Duration:
		return p.String()
	case *slog.Level:
		return strings.ToLower(p.String())
	}
	return ""
}

// exact returns the short form of a size if it is exact, otherwise the number of bytes.
func exact(b model.Bytes) string {
	if back, err := model.ParseBytes(b.String()); err == nil && back == b {
		return b.String()
	}
	return strconv.FormatInt(int64(b), 10)
}

// kind returns the type of the setting in words.
func (k key) kind() string {
	if len(k.choices) > 0 {
		return strings.Join(k.choices, " or ")
	}
	switch k.at(&Config{}).(type) {
	case *model.Bytes:
		return "size"
	case *model.Reserve:
		return "size or percent"
	case *int:
		return "number"
	case *bool:
		return "true or false"
	case *time.Duration:
		return "duration"
	}
	return "string"
}

// accepts returns an error if a TOML value of type t cannot hold the setting.
func (k key) accepts(t valueType) error {
	switch k.at(&Config{}).(type) {
	case *int:
		if t != integerValue {
			return fmt.Errorf("must be a number such as %s, not %s", k.def, t)
		}
	case *bool:
		if t != booleanValue {
			return fmt.Errorf("must be true or false without quotes, not %s", t)
		}
	case *model.Bytes, *model.Reserve:
		if t != stringValue && t != integerValue {
			return fmt.Errorf("must be a size such as %q, not %s", k.def, t)
		}
	case *time.Duration:
		if t != stringValue {
			return fmt.Errorf("must be a duration in quotes such as \"30s\", not %s", t)
		}
	default:
		if t != stringValue {
			return fmt.Errorf("must be a string in quotes, not %s", t)
		}
	}
	return nil
}
