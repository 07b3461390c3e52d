package command

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/userhero/relay/event"
	"github.com/userhero/relay/relay/signature"
)

// maxVerified bounds the body, in bytes. Events are far shorter.
const maxVerified = 16 << 20

func verifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify (--secret <secret> | --public-key <key>) --signature <signature> < body",
		Short: "Verifies a signature and explains why it is wrong",
		Long: `
Verifies the signature of a request that a receiver got. The request's body is
read from standard input. If the signature is wrong, it looks for the mistake: a
body that was parsed and written again, an added newline, white space around the
secret, another encoding, another secret.

An asymmetric signature (v1a in webhook-signature) is verified with --public-key:
whpk_ and base64, a key in PEM, or a JWK, such as the console's
.well-known/webhook-keys.json.

It needs no running Caddy. It exits with 1 if the signature is wrong.`,
		Example: `  caddy userhero verify --secret "$SECRET" --signature sha256=6c1d… < body
  caddy userhero verify --secret "$SECRET" --signature "v1,K5oZ…" \
    --id dlv_01… --timestamp 1767799800 < body
  caddy userhero verify --public-key "$(curl -s https://example.com/relay/.well-known/webhook-keys.json)" \
    --signature "v1a,9uDb…" --id dlv_01… --timestamp 1767799800 < body`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			body, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxVerified+1))
			switch {
			case err != nil:
				return fmt.Errorf("reading the body from standard input: %w", err)
			case len(body) > maxVerified:
				return errors.New("the body on standard input is too long for an event: give the body of one request")
			}
			verdict := signature.Explain(signature.Request{
				Secret:    flagText(cmd, "secret"),
				PublicKey: flagText(cmd, "public-key"),
				Signature: flagText(cmd, "signature"),
				ID:        flagText(cmd, "id"),
				Timestamp: flagText(cmd, "timestamp"),
				Body:      body,
			}, event.Canonical)
			if verdict.Valid {
				key := "secret"
				if flagText(cmd, "public-key") != "" {
					key = "public key"
				}
				return say(cmd, "The signature is right for this %s and these %d bytes.", key, len(body))
			}
			reasons := strings.Join(verdict.Reasons, "\n- ")
			if verdict.Explained {
				return errors.New("the signature is wrong:\n- " + reasons)
			}
			return errors.New("the signature cannot be verified:\n- " + reasons)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.String("secret", "", "The webhook's secret")
	flags.String("public-key", "", "The public key of the webhook's signing key, for a v1a signature")
	cmd.MarkFlagsMutuallyExclusive("secret", "public-key")
	flags.String("signature", "", "The value of X-UserHero-Signature or of webhook-signature")
	flags.String("id", "", "The value of webhook-id, for a webhook-signature")
	flags.String("timestamp", "", "The value of webhook-timestamp, for a webhook-signature")
	return cmd
}
