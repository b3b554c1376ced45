package token_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/letterhold/letterhold/internal/token"
)

func TestHosts(t *testing.T) {
	for host, want := range map[string]string{
		"outlook.office365.com": "token", "OUTLOOK.Office365.COM.": "token", "imap-mail.outlook.com": "token", "outlook.office.com": "token", "eas.outlook.com": "token", "partner.outlook.cn": "token", "pop3.live.com": "token", "outlook.com": "token",
		"imap.gmail.com": "token", "Imap.GoogleMail.com.": "token", "imap.google.com": "token", "pop.gmail.com": "token", " imap.gmail.com": "token",
		"imap.gmx.net": "password", "imap.mail.yahoo.com": "password", "posteo.de": "password", "imap.mail.me.com": "password",
		"mail.example.org": "", "notgmail.com": "", "gmail.com.example.org": "", "office365.com.evil.test": "", "": "", ".": "", "127.0.0.1": "", "come.com": "",
	} {
		got := ""
		way, yes := token.Passwordless(host)
		switch {
		case yes && strings.Contains(way, "consent"):
			got = "token"
		case token.Known(host):
			got = "password"
		}
		if got != want {
			t.Errorf("%q: %q, want %q", host, got, want)
		}
		if yes && !token.Known(host) {
			t.Errorf("%q has no passwords and is not known", host)
		}
	}
}

func TestPresets(t *testing.T) {
	const tenant = "72F988BF-86f1-41af-91ab-2d7cd011db47"
	for _, c := range []struct {
		kind   token.Kind
		tenant string
		p      token.Protocol
		want   string
	}{
		{token.Application, tenant, token.IMAP, "https://outlook.office365.com/.default"},
		{token.Application, tenant, token.POP3, "https://outlook.office365.com/.default"},
		{token.Browser, tenant, token.IMAP, "https://outlook.office.com/IMAP.AccessAsUser.All offline_access"},
		{token.Device, tenant, token.POP3, "https://outlook.office.com/POP.AccessAsUser.All offline_access"},
		{token.Browser, "consumers", token.IMAP, "https://outlook.office.com/IMAP.AccessAsUser.All offline_access"},
		{token.Application, "consumers", token.IMAP, "private accounts"},
		{token.Browser, tenant, "smtp", "imap or pop3"},
		{token.Service, tenant, token.IMAP, "not of Microsoft"},
		{token.Browser, "common", token.IMAP, "Directory (tenant) ID"},
		{token.Browser, "contoso.onmicrosoft.com", token.IMAP, "Directory (tenant) ID"},
		{token.Browser, "../" + tenant, token.IMAP, "Directory (tenant) ID"},
	} {
		m, err := token.Microsoft(c.kind, c.tenant, "client", c.p)
		got := strings.Join(m.Scopes, " ")
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%+v: %s", c, got)
		}
		if err == nil && c.tenant == tenant && m.TokenURL != "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/oauth2/v2.0/token" {
			t.Error(m.TokenURL)
		}
	}
	g, err := token.Google("client")
	if err != nil || g.Scopes[0] != "https://mail.google.com/" || g.RevokeURL == "" {
		t.Error(g, err)
	}

	key, _, err := token.NewKey("test", now())
	if err != nil {
		t.Fatal(err)
	}
	file := func(typ, uri, key string) []byte {
		b, _ := json.Marshal(map[string]string{"type": typ, "private_key_id": "k7", "private_key": key, "client_email": "robot@project.iam.gserviceaccount.com", "token_uri": uri})
		return b
	}
	c, s, err := token.GoogleKey(file("service_account", "https://oauth2.googleapis.com/token", key))
	if err != nil || c.Kind != token.Service || c.KeyID != "k7" || c.ClientID != "robot@project.iam.gserviceaccount.com" || s.Key != key {
		t.Error(c, err)
	}
	for want, f := range map[string][]byte{
		"names the token endpoint": file("service_account", "https://evil.test/token", key),
		"no key file":              file("authorized_user", "", key),
		"no private key":           file("service_account", "", "nonsense"),
		"this is no key file":      []byte("nonsense"),
	} {
		if _, _, err := token.GoogleKey(f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
