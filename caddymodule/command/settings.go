package command

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/userhero/relay/console/api"
)

// addSettings adds the flags of a webhook's settings to a command.
func addSettings(cmd *cobra.Command) *cobra.Command {
	flags := cmd.Flags()
	flags.StringSlice("projects", nil, "Only feedback of these projects; empty for all")
	flags.StringSlice("events", nil, "Types of events, such as feedback.created or webhook.failing; default: those of feedback")
	flags.String("filter", "", "CEL expression over event and data; only events for which it is true")
	flags.String("body", "", "slack, discord, teams, or a CEL expression that makes the body; empty for the document")
	flags.StringSlice("notify", nil, "Addresses of its owners, who are mailed about it; empty for none")
	flags.StringArray("header", nil, "Header of each request, as 'Name: value'; may be repeated, and replaces all earlier ones")
	flags.StringSlice("retry", nil, "Delay before each retry, such as 1m,5m,30m; empty for none")
	flags.String("timeout", "", "Time for one attempt, such as 30s")
	flags.Int("concurrency", 0, "Attempts at a time")
	flags.String("rate", "", "Most attempts in a time, such as 50/s; empty for no bound")
	flags.Bool("ordered", false, "Keep the events of each feedback in order")
	flags.String("client-certificate", "", "File with a client certificate in PEM; goes with --client-key")
	flags.String("client-key", "", "File with its key in PEM")
	flags.String("root-ca", "", "File with the authorities of the receiver's certificate in PEM")
	flags.String("signing-key", "", "File with an ed25519 private key in PEM, for asymmetric signatures too; empty for none")
	completeFlag(cmd, "body", oneOf("slack", "discord", "teams"))
	completeFlag(cmd, "events", oneOf(api.TypeNames()...))
	completeFlag(cmd, "projects", projectNames)
	for _, file := range []string{"client-certificate", "client-key", "root-ca", "signing-key"} {
		completeFiles(cmd, file)
	}
	return cmd
}

// completeFiles completes a flag with names of files in PEM.
func completeFiles(cmd *cobra.Command, flag string) {
	if err := cmd.MarkFlagFilename(flag, "pem", "crt", "key"); err != nil {
		panic(err) // the flag is not defined: a mistake in this package
	}
}

// flagFile reads the file that a flag names; empty if it names none.
func flagFile(cmd *cobra.Command, flag string) (string, error) {
	path := flagText(cmd, flag)
	if path == "" {
		return "", nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("--%s: %w", flag, err)
	}
	return string(text), nil
}

// settings returns the flags that are set as members of a request; the API checks them.
func settings(cmd *cobra.Command) (map[string]any, error) {
	in := make(map[string]any)
	flags := cmd.Flags()
	for _, name := range []string{"url", "secret", "filter", "body", "timeout", "rate"} {
		if flags.Changed(name) {
			in[name] = flagText(cmd, name)
		}
	}
	for _, name := range []string{"projects", "events", "retry", "notify"} {
		if flags.Changed(name) {
			list, err := flags.GetStringSlice(name)
			if err != nil {
				return nil, err
			}
			in[name] = list
		}
	}
	if flags.Changed("concurrency") {
		in["concurrency"], _ = flags.GetInt("concurrency") // it is defined
	}
	if flags.Changed("ordered") {
		in["ordered"] = flagSet(cmd, "ordered")
	}
	if flags.Changed("header") {
		headers := make(map[string]string)
		lines, err := flags.GetStringArray("header")
		if err != nil {
			return nil, err
		}
		for _, line := range lines {
			name, value, ok := strings.Cut(line, ":")
			if !ok {
				return nil, fmt.Errorf("--header %q: write 'Name: value'", cell(line))
			}
			headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
		in["headers"] = headers
	}
	if flags.Changed("signing-key") {
		key, err := flagFile(cmd, "signing-key")
		if err != nil {
			return nil, err
		}
		in["signing_key"] = key
	}
	var tls api.TLSSettings
	for name, to := range map[string]*string{
		"client-certificate": &tls.ClientCertificate, "client-key": &tls.ClientCertificateKey, "root-ca": &tls.RootCA,
	} {
		if !flags.Changed(name) {
			continue
		}
		text, err := flagFile(cmd, name)
		if err != nil {
			return nil, err
		}
		*to, in["tls"] = text, &tls
	}
	return in, nil
}

func addWebhookCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add <name> <url>",
		Short: "Adds a webhook",
		Long: `
Adds a webhook. It gets the events that are accepted from now on. Unless --secret
gives one, the relay makes a secret and prints it, once.`,
		Example: `  caddy userhero webhooks add crm https://crm.example.com/hook --projects proj_xyz
  caddy userhero webhooks add chat https://hooks.slack.com/services/… --body slack --unsigned`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return errors.New("give a name and a URL, such as: crm https://crm.example.com/hook")
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := settings(cmd)
			if err != nil {
				return err
			}
			in["name"], in["url"] = args[0], args[1]
			if _, given := in["secret"]; !given && !flagSet(cmd, "unsigned") {
				in["generate_secret"] = true
			}
			if err := ask(cmd, "Add the webhook %s, which sends to %s?", cell(args[0]), cell(args[1])); err != nil {
				return err
			}
			return showAnswer(cmd, http.MethodPost, "/webhooks", in, func(_ io.Writer, w api.WebhookWithSecret) error {
				if err := say(cmd, "%s is added. Try it with `caddy userhero test %[1]s`.", cell(w.Name)); err != nil || w.Secret == "" {
					return err
				}
				return say(cmd, "Its secret, which is shown only now: %s", cell(w.Secret))
			})
		},
	}
	cmd.Flags().String("secret", "", "Secret that signs the requests; default: a new one")
	cmd.Flags().Bool("unsigned", false, "Send without a signature")
	cmd.MarkFlagsMutuallyExclusive("secret", "unsigned")
	return addYes(addJSON(addSettings(cmd)))
}

func setWebhookCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set <name>",
		Short: "Changes settings of a webhook that was added with the API",
		Example: `  caddy userhero webhooks set crm --rate 50/s --filter 'data.category != "spam"'
  caddy userhero webhooks set crm --projects ''`,
		Args: oneName, ValidArgsFunction: webhookArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := settings(cmd)
			if err != nil {
				return err
			}
			if len(in) == 0 {
				return errors.New("give the settings to change, such as --rate 50/s; `caddy userhero webhooks set --help` lists them")
			}
			if err := ask(cmd, "Change %s?", cell(args[0])); err != nil {
				return err
			}
			return changed(cmd, args[0], in, "is changed")
		},
	}
	cmd.Flags().String("url", "", "Where events are sent")
	return addYes(addJSON(addSettings(cmd)))
}

func renameWebhookCommand() *cobra.Command {
	return addYes(addJSON(&cobra.Command{
		Use:   "rename <name> <new-name>",
		Short: "Renames a webhook that was added with the API; it keeps everything else",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return errors.New("give the webhook's name and its new name")
			}
			return nil
		},
		ValidArgsFunction: webhookArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := ask(cmd, "Rename %s to %s?", cell(args[0]), cell(args[1])); err != nil {
				return err
			}
			return changed(cmd, args[0], map[string]any{"name": args[1]}, "is the new name of "+cell(args[0]))
		},
	}))
}

// changed changes a webhook and says so.
func changed(cmd *cobra.Command, name string, in any, done string) error {
	return showAnswer(cmd, http.MethodPatch, webhookPath(name, ""), in, func(out io.Writer, w api.Webhook) error {
		if err := say(cmd, "%s %s.\n", cell(w.Name), done); err != nil {
			return err
		}
		return showWebhook(out, w)
	})
}

func rotateWebhookCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate <name>",
		Short: "Gives a webhook a new secret, and prints it once",
		Args:  oneName, ValidArgsFunction: webhookArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			overlap := flagText(cmd, "overlap")
			before, err := decode[api.Webhook](get(cmd, webhookPath(args[0], ""), nil))
			if err != nil {
				return err
			}
			old, err := oldSecret(before, overlap)
			if err != nil {
				return err
			}
			if err := ask(cmd, "Give %s a new secret? %s", cell(args[0]), old); err != nil {
				return err
			}
			rotation := api.Rotation{Overlap: overlap, Secret: flagText(cmd, "secret")}
			return showAnswer(cmd, http.MethodPost, webhookPath(args[0], "/rotate"), rotation, func(_ io.Writer, w api.WebhookWithSecret) error {
				if w.Secret == "" {
					return say(cmd, "%s has the new secret. %s", cell(w.Name), old)
				}
				return say(cmd, "%s has a new secret, which is shown only now: %s\n%s", cell(w.Name), cell(w.Secret), old)
			})
		},
	}
	cmd.Flags().String("overlap", "24h", "How long the old secret also works; 0s for not at all")
	cmd.Flags().String("secret", "", "The new secret; default: the relay makes one")
	return addYes(addJSON(cmd))
}

// oldSecret says what becomes of the secret of a webhook that gets a new one.
func oldSecret(before api.Webhook, overlap string) (string, error) {
	d, err := api.OverlapOf(overlap)
	switch {
	case err != nil:
		return "", fmt.Errorf("--overlap %q is not a duration such as 24h", overlap)
	case !before.HasSecret:
		return "It had none before.", nil
	case d == 0:
		return "The old secret stops working at once.", nil
	}
	return "The old secret also works for " + cell(overlap) + ".", nil
}

func rotateSigningKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate-signing-key <name>",
		Short: "Gives a webhook a new key for asymmetric signatures, and prints the public one",
		Long: `
Gives a webhook an ed25519 key that makes an asymmetric signature too (v1a of
Standard Webhooks). Unless --signing-key names a file, the relay makes the key, and
nobody sees it. Receivers verify with the public key, which is printed and is in
the console's .well-known/webhook-keys.json.`,
		Args: oneName, ValidArgsFunction: webhookArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := flagFile(cmd, "signing-key")
			if err != nil {
				return err
			}
			overlap := flagText(cmd, "overlap")
			if err := ask(cmd, "Give %s a new signing key? If it has one, the old key also signs for %s.", cell(args[0]), cell(overlap)); err != nil {
				return err
			}
			rotation := api.KeyRotation{SigningKey: key, Overlap: overlap}
			return showAnswer(cmd, http.MethodPost, webhookPath(args[0], "/rotate-signing-key"), rotation, func(_ io.Writer, w api.Webhook) error {
				if len(w.PublicKeys) == 0 {
					return errors.New("the relay did not set the key: the running Caddy may be an older version; update it")
				}
				return say(cmd, "%s has a new signing key. Its public key: %s", cell(w.Name), cell(w.PublicKeys[0].Public()))
			})
		},
	}
	cmd.Flags().String("overlap", "24h", "How long the old key also signs")
	cmd.Flags().String("signing-key", "", "File with the new ed25519 private key in PEM; default: the relay makes one")
	completeFiles(cmd, "signing-key")
	return addYes(addJSON(cmd))
}

func deleteWebhookCommand() *cobra.Command {
	return addYes(addJSON(&cobra.Command{
		Use:   "delete <name>",
		Short: "Deletes a webhook and cancels its waiting deliveries",
		Args:  oneName, ValidArgsFunction: webhookArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			w, err := decode[api.Webhook](get(cmd, webhookPath(args[0], ""), nil))
			if err != nil {
				return err
			}
			if err := ask(cmd, "Delete %s? %s.", cell(w.Name), counted(w.Counts.Waiting(), "waiting delivery will be cancelled", "waiting deliveries will be cancelled")); err != nil {
				return err
			}
			return showAnswer(cmd, http.MethodDelete, webhookPath(args[0], ""), nil, func(_ io.Writer, d api.Deleted) error {
				return say(cmd, "%s is deleted. %s.", cell(d.Name), counted(d.Ended, "waiting delivery was cancelled", "waiting deliveries were cancelled"))
			})
		},
	}))
}

// showWebhook prints one webhook, whole.
func showWebhook(out io.Writer, w api.Webhook) error {
	list := func(all []string, none string) string {
		if len(all) == 0 {
			return none
		}
		return strings.Join(all, " ")
	}
	var events []string
	for _, e := range w.Events {
		events = append(events, string(e))
	}
	day := func(c api.Certificate) string { return c.Subject + ", until " + c.NotAfter.Format(time.DateOnly) }
	t := newTable(out)
	t.row("Webhook", w.Name)
	state, reason := stateOf(w)
	t.row("State", state)
	some := func(name, value string) {
		if value != "" {
			t.row(name, value)
		}
	}
	some("Reason", reason)
	some("Failing since", timestamp(w.FailingSince))
	some("Held until", timestamp(w.HeldUntil))
	some("Differs", w.Difference)
	t.row("URL", w.URL)
	t.row("Projects", list(w.Projects, "all"))
	t.row("Events", list(events, "all"))
	some("Filter", w.Filter)
	if f := w.FilterErrors; f != nil {
		t.row("Filter errors", number(f.Count)+", last at "+timestamp(f.At)+": "+f.Last)
	}
	some("Body", w.Body)
	t.row("Signed", map[bool]string{true: "yes", false: "no"}[w.HasSecret || len(w.PublicKeys) > 0])
	for _, key := range w.PublicKeys {
		t.row("Public key", key.Public())
	}
	some("Notify", list(w.Notify, ""))
	some("Headers", list(w.HeaderNames, ""))
	if w.TLS != nil {
		if c := w.TLS.ClientCertificate; c != nil {
			t.row("Client certificate", day(*c))
		}
		for _, c := range w.TLS.RootCA {
			t.row("Root CA", day(c))
		}
	}
	t.row("Retries after", list(w.Retry, "none"))
	t.row("Timeout", w.Timeout)
	t.row("Concurrency", strconv.Itoa(w.Concurrency))
	some("Rate", w.Rate)
	t.row("Ordered", map[bool]string{true: "yes", false: "no"}[w.Ordered])
	t.row("Source", w.Source)
	t.row("Deliveries", fmt.Sprintf("%d pending, %d retrying, %d held, %d failed, %d delivered",
		w.Counts.Pending, w.Counts.Retrying, w.Counts.Held, w.Counts.Failed, w.Counts.Delivered))
	t.row("Last attempt", timestamp(w.LastAttempt))
	t.row("Last success", timestamp(w.LastSuccess))
	return t.end()
}
