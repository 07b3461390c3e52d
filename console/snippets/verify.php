<?php
// $body: file_get_contents('php://input'), the raw bytes.
// $signature: $_SERVER['HTTP_X_USERHERO_SIGNATURE'] ?? ''
function verify(string $body, string $signature, string $secret): bool
{
    return hash_equals('sha256=' . hash_hmac('sha256', $body, $secret), $signature);
}
