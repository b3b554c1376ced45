package token

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
)

// Limits of the device flow.
const (
	deviceInterval = 5 * time.Second // RFC 8628, 3.2
	maxInterval    = time.Minute
	maxUserCode    = 64
)

// Prompt is what a person needs to consent on another device.
type Prompt struct {
	URL   string // to be opened on any device
	Code  string // to be typed there
	Until time.Time
}

// OnDevice asks for a person's consent on another device, and waits for it:
// show gets what the person needs.
func OnDevice(ctx context.Context, conf Config, s Secret, o Options, show func(Prompt) error) (*Granted, error) {
	if conf.Kind != Device {
		return nil, fmt.Errorf("kind %q has no device", conf.Kind)
	}
	wait := o.Wait
	if wait == nil {
		wait = sleep
	}
	p, err := conf.open(&o)
	if err != nil {
		return nil, err
	}
	if err := p.discover(ctx); err != nil {
		return nil, err
	}
	if p.DeviceURL == "" {
		return nil, fmt.Errorf("%s offers no consent on another device", p.Issuer)
	}
	form := url.Values{"scope": {strings.Join(p.Scopes, " ")}}
	if err := p.sign(form, &s); err != nil {
		return nil, err
	}
	var d struct { // RFC 8628, 3.2
		Device   string `json:"device_code"`
		User     string `json:"user_code"`
		URL      string `json:"verification_uri"`
		Life     int64  `json:"expires_in"`
		Interval int64  `json:"interval"`
	}
	if err := p.post(ctx, p.DeviceURL, form, &d); err != nil {
		return nil, advise(err, &p.Config, grantDevice, "")
	}
	// All this is shown at a terminal, and a person is sent there.
	switch {
	case d.User == "" || len(d.User) > maxUserCode || !printable(d.User, ' '):
		return nil, fmt.Errorf("%w: the code to type is %q", ErrProtocol, clip(d.User))
	case d.Device == "" || len(d.Device) > maxToken || !printable(d.Device, ' '):
		return nil, fmt.Errorf("%w: there is no device code", ErrProtocol)
	case d.Life <= 0:
		return nil, fmt.Errorf("%w: the code has expired already", ErrProtocol)
	}
	if err := checkURL(d.URL); err != nil {
		return nil, fmt.Errorf("%w: where to type the code: %w", ErrProtocol, err)
	}
	until := p.now().Add(time.Duration(min(d.Life, int64(consentLife/time.Second))) * time.Second)
	if err := show(Prompt{URL: d.URL, Code: d.User, Until: until}); err != nil {
		return nil, err
	}
	interval := deviceInterval
	if d.Interval > 0 {
		interval = time.Duration(min(d.Interval, int64(maxInterval/time.Second))) * time.Second
	}
	for {
		if err := wait(ctx, interval); err != nil {
			return nil, err
		}
		if !p.now().Before(until) {
			return nil, ErrLate
		}
		form := url.Values{"grant_type": {grantDevice}, "device_code": {d.Device}}
		if err := p.sign(form, &s); err != nil {
			return nil, err
		}
		var a answer
		err := p.post(ctx, p.TokenURL, form, &a)
		var refused *Error
		var ne net.Error
		switch { // RFC 8628, 3.5
		case err == nil:
			return p.granted(ctx, &a, s, "")
		case errors.As(err, &refused) && refused.Code == "authorization_pending":
		case errors.As(err, &refused) && refused.Code == "slow_down":
			interval += deviceInterval
		case ctx.Err() == nil && errors.As(err, &ne) && ne.Timeout():
			interval *= 2
		default:
			return nil, advise(err, &p.Config, grantDevice, "")
		}
		interval = min(interval, maxInterval)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
