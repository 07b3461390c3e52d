# A webhook receiver as a Rack application. It needs the gems sqlite3 and puma.
#
#   USERHERO_WEBHOOK_SECRET=demo-secret puma -b tcp://127.0.0.1:3000 config.ru
require "json"
require "openssl"
require "sqlite3"

SECRET = ENV.fetch("USERHERO_WEBHOOK_SECRET")
DATABASE = ENV.fetch("DATABASE", "deliveries.db")
LARGEST_EVENT = 1024 * 1024 # bytes

# Your code. If it raises, the relay delivers the event again later.
def handle(event)
  warn "received #{event["event"]} #{event["data"]["id"]}: #{event["data"]["message"].inspect}"
end

# Compares without telling by its time where two texts differ.
def same?(a, b)
  a.bytesize == b.bytesize && OpenSSL.fixed_length_secure_compare(a, b)
end

run lambda { |env|
  next [404, {}, []] unless env["REQUEST_METHOD"] == "POST" && env["PATH_INFO"] == "/webhook/userhero"
  next [413, {}, []] if env["CONTENT_LENGTH"].to_i > LARGEST_EVENT

  # Verify the bytes as they came, before any JSON parser.
  body = env["rack.input"].read
  expected = "sha256=" + OpenSSL::HMAC.hexdigest("SHA256", SECRET, body)
  next [401, {}, []] unless same?(expected, env["HTTP_X_USERHERO_SIGNATURE"].to_s)

  # A delivery has the same id on every attempt. The id and what handle does are
  # committed together, so each event is handled once. Put both into one database.
  db = SQLite3::Database.new(DATABASE)
  begin
    # Waits 5 s for other writers. busy_timeout would stop all threads of Ruby meanwhile,
    # the writer's too.
    db.busy_handler { |tries| tries < 500 && sleep(0.01) }
    db.transaction(:immediate) do
      db.execute("CREATE TABLE IF NOT EXISTS deliveries (id TEXT PRIMARY KEY)")
      db.execute("INSERT INTO deliveries VALUES (?) ON CONFLICT DO NOTHING", [env["HTTP_X_USERHERO_DELIVERY"].to_s])
      handle(JSON.parse(body)) if db.changes == 1
    end
  ensure
    db.close
  end
  [204, {}, []]
}
