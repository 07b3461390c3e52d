<?php
// A webhook receiver. It needs PHP 8.1 with PDO's SQLite driver.
//
//   USERHERO_WEBHOOK_SECRET=demo-secret php -S 127.0.0.1:3000 receiver.php
//
// In production, run it with PHP-FPM behind your web server.
declare(strict_types=1);

/** Your code. If it throws, the relay delivers the event again later. */
function handle(array $event): void
{
    error_log(sprintf('received %s %s: %s', $event['event'], $event['data']['id'], json_encode($event['data']['message'])));
}

function answer(int $status): never
{
    http_response_code($status);
    exit;
}

http_response_code(500); // what the relay gets if anything below fails: it tries again

$secret = getenv('USERHERO_WEBHOOK_SECRET');
if (!$secret) {
    error_log('set USERHERO_WEBHOOK_SECRET to the secret of your webhook');
    answer(500);
}
if ($_SERVER['REQUEST_METHOD'] !== 'POST') {
    answer(405);
}

// Verify the bytes as they came, before any JSON parser.
$body = file_get_contents('php://input');
$expected = 'sha256=' . hash_hmac('sha256', $body, $secret);
if (!hash_equals($expected, $_SERVER['HTTP_X_USERHERO_SIGNATURE'] ?? '')) {
    answer(401);
}

// A delivery has the same id on every attempt. The id and what handle does are
// committed together, so each event is handled once. Put both into one database.
$db = new PDO('sqlite:' . (getenv('DATABASE') ?: __DIR__ . '/deliveries.db'));
$db->exec('CREATE TABLE IF NOT EXISTS deliveries (id TEXT PRIMARY KEY)');
$db->beginTransaction();
$insert = $db->prepare('INSERT INTO deliveries VALUES (?) ON CONFLICT DO NOTHING');
$insert->execute([$_SERVER['HTTP_X_USERHERO_DELIVERY'] ?? '']);
if ($insert->rowCount() > 0) {
    handle(json_decode($body, true, flags: JSON_THROW_ON_ERROR));
}
$db->commit();
answer(204);
