package web

import (
	"context"
	"crypto/rand"
	"net/http"
	"strings"
)

// policy is the content security policy of the application's own pages.
const policy = "default-src 'none'; script-src 'nonce-NONCE'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; frame-src 'self'; manifest-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types htmx"

// framePolicy is that of a mail's HTML: a sandbox without scripts and without
// our origin, that loads nothing.
const framePolicy = "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; img-src IMAGES; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'; frame-ancestors 'self'"

var permissions = "accelerometer=(), autoplay=(), camera=(), clipboard-read=(), display-capture=(), encrypted-media=(), fullscreen=(), geolocation=(), gyroscope=(), hid=(), magnetometer=(), microphone=(), midi=(), payment=(), publickey-credentials-get=(), screen-wake-lock=(), serial=(), usb=(), xr-spatial-tracking=()"

// nonceKey finds the nonce of an answer in the context of its request.
type nonceKey struct{}

// nonce is what scripts and the elements that htmx may follow have to carry.
func (r *request) nonce() string {
	s, _ := r.Context().Value(nonceKey{}).(string)
	return s
}

// swapping tells a request that htmx made to swap a part of the page in place.
func (r *request) swapping() bool { return r.Header.Get("HX-Request") == "true" }

// secure sets the headers of every answer.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, nonce := w.Header(), rand.Text()
		h.Set("Content-Security-Policy", strings.Replace(policy, "NONCE", nonce, 1))
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Permissions-Policy", permissions)
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), nonceKey{}, nonce)))
	})
}

// frameHeaders replaces the policy for a mail's HTML.
func frameHeaders(h http.Header, remote bool) {
	images := "data:"
	if remote {
		images = "data: https: http:"
	}
	h.Set("Content-Security-Policy", strings.Replace(framePolicy, "IMAGES", images, 1))
	h.Set("X-Frame-Options", "SAMEORIGIN")
	h.Set("Content-Type", "text/html; charset=utf-8")
}
