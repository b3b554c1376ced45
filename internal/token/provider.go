package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Providers' servers of mail.
const (
	MicrosoftIMAP = "outlook.office365.com:993"
	MicrosoftPOP3 = "outlook.office365.com:995"
	GoogleIMAP    = "imap.gmail.com:993"
	GooglePOP3    = "pop.gmail.com:995"
)

// providers of mail that many know. All of them offer TLS with good
// certificates; whoever sees something else is not talking to them.
var providers = []struct {
	domains []string
	way     string // of signing in, where passwords are not for programs
}{
	{[]string{"office365.com", "office365.us", "office.com", "outlook.com", "outlook.cn", "hotmail.com", "live.com", "msn.com"},
		"Microsoft takes no passwords from programs. Sign in with a token: register an application, and either give it the right IMAP.AccessAsApp and a certificate, or let the person consent to IMAP.AccessAsUser.All"},
	{[]string{"gmail.com", "googlemail.com", "google.com"},
		"Google is not given passwords of programs. Sign in with a token: a service account with domain-wide delegation for https://mail.google.com/, or the consent of the person"},
	{[]string{"yahoo.com", "icloud.com", "me.com", "gmx.net", "gmx.de", "web.de", "t-online.de", "fastmail.com", "mailbox.org", "posteo.de", "zoho.com", "zoho.eu"}, ""},
}

// Known tells whether a host belongs to a provider whose encryption is known to
// be good, so that no exception is made for it.
func Known(host string) bool {
	_, ok := find(host)
	return ok
}

// Passwordless tells whether a host is not signed in to with a password, and
// says what to do instead.
func Passwordless(host string) (way string, yes bool) {
	i, ok := find(host)
	if !ok || providers[i].way == "" {
		return "", false
	}
	return providers[i].way, true
}

func find(host string) (int, bool) {
	host = strings.ToLower(strings.TrimRight(strings.TrimSpace(host), "."))
	for i := range providers {
		if slices.ContainsFunc(providers[i].domains, func(d string) bool { return host == d || strings.HasSuffix(host, "."+d) }) {
			return i, true
		}
	}
	return 0, false
}

// Protocol is what the mail is fetched with; some scopes differ by it.
type Protocol string

// The protocols.
const (
	IMAP Protocol = "imap"
	POP3 Protocol = "pop3"
)

// consumers is the tenant of private Microsoft accounts.
const consumers = "9188040d-6c67-4c5b-b112-36a304b66dad"

var guid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// Microsoft is the configuration for Microsoft 365: an application with a
// certificate, or a person's consent. The tenant is its id, or "consumers" for
// private accounts.
func Microsoft(k Kind, tenant, client string, p Protocol) (Config, error) {
	tenant = strings.ToLower(strings.TrimSpace(tenant))
	if tenant == "consumers" {
		tenant = consumers
	}
	// A name could stand for more than one issuer; an id is one.
	if !guid.MatchString(tenant) {
		return Config{}, fmt.Errorf("tenant %q: it is the \"Directory (tenant) ID\" of the registered application, like %s", clip(tenant), consumers)
	}
	base := "https://login.microsoftonline.com/" + tenant
	c := Config{
		Kind: k, Issuer: base + "/v2.0", ClientID: client, Algorithm: "PS256",
		AuthURL: base + "/oauth2/v2.0/authorize", TokenURL: base + "/oauth2/v2.0/token", DeviceURL: base + "/oauth2/v2.0/devicecode",
	}
	switch k {
	case Application:
		if tenant == consumers {
			return Config{}, errors.New("private accounts are not opened by an application: the person has to consent")
		}
		c.Scopes = []string{"https://outlook.office365.com/.default"}
	case Browser, Device:
		right := map[Protocol]string{IMAP: "IMAP", POP3: "POP"}[p]
		if right == "" {
			return Config{}, fmt.Errorf("protocol %q: it is imap or pop3", p)
		}
		c.Scopes = []string{"https://outlook.office.com/" + right + ".AccessAsUser.All", "offline_access"}
	default:
		return Config{}, fmt.Errorf("kind %q is not of Microsoft: it is application, browser or device", k)
	}
	return c, c.Check()
}

const (
	googleScope = "https://mail.google.com/"
	googleToken = "https://oauth2.googleapis.com/token"
)

// Google is the configuration for a person's consent at Google. The client's
// secret goes with it: Google gives one to programs too.
func Google(client string) (Config, error) {
	c := Config{
		Kind: Browser, Issuer: "https://accounts.google.com", ClientID: client, Scopes: []string{googleScope},
		// A refresh token comes only with the first of these, and each time only
		// with the second.
		AuthURL:  "https://accounts.google.com/o/oauth2/v2/auth?access_type=offline&prompt=consent",
		TokenURL: googleToken, RevokeURL: "https://oauth2.googleapis.com/revoke",
	}
	return c, c.Check()
}

// maxKeyFile is how long the file of a service account may be.
const maxKeyFile = 64 << 10

// GoogleKey is the configuration for a service account with domain-wide
// delegation, from the key file (JSON) that Google gives.
func GoogleKey(file []byte) (Config, Secret, error) {
	var f struct {
		Type     string `json:"type"`
		KeyID    string `json:"private_key_id"`
		Key      string `json:"private_key"`
		Email    string `json:"client_email"`
		TokenURL string `json:"token_uri"`
	}
	if len(file) > maxKeyFile || json.Unmarshal(file, &f) != nil || f.Type != "service_account" {
		return Config{}, Secret{}, errors.New(`this is no key file of a service account (JSON with "type": "service_account")`)
	}
	// Whoever made the file could have the key's signatures sent elsewhere.
	if f.TokenURL != "" && f.TokenURL != googleToken {
		return Config{}, Secret{}, fmt.Errorf("the key file names the token endpoint %q; Google's is %s", clip(f.TokenURL), googleToken)
	}
	c := Config{Kind: Service, TokenURL: googleToken, ClientID: f.Email, KeyID: f.KeyID, Scopes: []string{googleScope}}
	if _, err := parseKey(f.Key); err != nil {
		return Config{}, Secret{}, fmt.Errorf("key file: %w", err)
	}
	return c, Secret{Key: f.Key}, c.Check()
}
