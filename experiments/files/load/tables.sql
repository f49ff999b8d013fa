CREATE DATABASE shop;
USE shop;
CREATE TABLE orders (id INT PRIMARY KEY AUTO_INCREMENT, customer INT, amount INT, note VARCHAR(200), KEY (customer));
INSERT INTO orders (customer, amount, note) VALUES (1, 10, 'the first'), (2, 20, 'the second'), (3, 30, 'the third');
INSERT INTO orders (customer, amount, note) SELECT a.id * 7 % 120, a.amount + b.amount, CONCAT(a.note, b.note) FROM orders a, orders b;
INSERT INTO orders (customer, amount, note) SELECT a.id * 7 % 120, a.amount + b.id, CONCAT(a.note, b.id) FROM orders a, orders b;
INSERT INTO orders (customer, amount, note) SELECT a.id * 7 % 120, a.amount + b.id, CONCAT(b.id, a.id) FROM orders a, orders b LIMIT 5000;
CREATE USER shop@localhost IDENTIFIED BY 'shop';
GRANT ALL ON shop.* TO shop@localhost;
