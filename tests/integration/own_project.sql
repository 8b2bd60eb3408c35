-- A table of a bot's own, as tests/postgrest/recorded_requests.txt names it.
create table public.orders (order_id text primary key, account text, day date, lots int, unique (account, day));
alter table public.orders enable row level security;
create policy orders_service on public.orders for all to service_role using (true) with check (true);
grant select, insert, update on table public.orders to service_role;
