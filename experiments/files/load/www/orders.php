<?php
$customer = intval($_GET["customer"]);
$shop = new mysqli("localhost", "shop", "shop", "shop");
$shop->query("INSERT INTO orders (customer, amount, note) VALUES ($customer, 1, 'seen')");
echo "<html><head><title>Customer $customer</title></head><body><table>";
foreach ($shop->query("SELECT id, amount, note FROM orders WHERE customer = $customer LIMIT 100") as $row) {
    echo "<tr><td>", join("</td><td>", array_map("htmlspecialchars", $row)), "</td></tr>";
}
echo "</table></body></html>";
