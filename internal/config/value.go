package config

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"banger/internal/model"
)

// parse reads text as the type that dst points to.
func parse(dst any, text string) (err error) {
	switch p := dst.(type) {
	case *string:
		*p = text
	case *model.NetMode:
		*p = model.NetMode(text)
	case *model.Bytes:
		*p, err = model.ParseBytes(text)
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
		err = fmt.Errorf("no way to read a %T", dst)
	}
	return err
}

// text shows the setting's value in the form that set reads.
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

// exact is the short form of a size if that loses nothing.
func exact(b model.Bytes) string {
	if back, err := model.ParseBytes(b.String()); err == nil && back == b {
		return b.String()
	}
	return strconv.FormatInt(int64(b), 10)
}

// kind is the type of the setting as a person is told it.
func (k key) kind() string {
	if len(k.choices) > 0 {
		return strings.Join(k.choices, " or ")
	}
	switch k.at(&Config{}).(type) {
	case *model.Bytes:
		return "size"
	case *int:
		return "number"
	case *bool:
		return "true or false"
	case *time.Duration:
		return "duration"
	}
	return "text"
}

// accepts tells whether a TOML value of the given type can hold the setting, and what it should be if not.
func (k key) accepts(t valueType) error {
	switch k.at(&Config{}).(type) {
	case *int:
		if t != integerValue {
			return fmt.Errorf("a %s where a number belongs, such as %s", t, k.def)
		}
	case *bool:
		if t != booleanValue {
			return fmt.Errorf("a %s where true or false belongs, without quotes", t)
		}
	case *model.Bytes:
		if t != textValue && t != integerValue {
			return fmt.Errorf("a %s where a size belongs, such as %q", t, k.def)
		}
	case *time.Duration:
		if t != textValue {
			return fmt.Errorf("a %s where a duration in quotes belongs, such as \"30s\"", t)
		}
	default:
		if t != textValue {
			return fmt.Errorf("a %s where a text in quotes belongs", t)
		}
	}
	return nil
}
