"""The application of docs/appending.md on pyeventsourcing: the same routes, answers, projection and snapshots.

`benchmarks.applications` runs it beside ours. PERSISTENCE_MODULE and what goes with it say where it keeps its events.
"""
# mypy: ignore-errors
# As that of the documentation is: without types.

import threading
import time
from collections import Counter
from contextlib import asynccontextmanager
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import AggregateNotFoundError, Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import IntegrityError
from fastapi import FastAPI, Header, HTTPException


class Account(Aggregate):
    @staticmethod
    def create_id(name):
        return uuid5(NAMESPACE_URL, f"/accounts/{name}")

    @event("Opened")
    def __init__(self, name):
        self.name = name
        self.balance = 0

    @event("Deposited")
    def deposit(self, amount):
        self.balance += amount

    @event("Withdrawn")
    def withdraw(self, amount):
        self.balance -= amount

    @event("FeeTaken")
    def take_fee(self, amount):
        self.balance -= amount


class Command(Aggregate):
    """An idempotency key: there is one of each."""

    @staticmethod
    def create_id(key, version):
        return uuid5(NAMESPACE_URL, f"/commands/{key}")

    @event("Done")
    def __init__(self, key, version):
        self.answer = version


class Accounts(Application[UUID]):
    snapshotting_intervals = {Account: 10}  # noqa: RUF012 -- as its documentation has it

    def account(self, name):
        try:
            return self.repository.get(Account.create_id(name))
        except AggregateNotFoundError:
            return Account(name)

    def decide(self, name, decision, key):
        while True:
            account = self.account(name)
            decision(account)
            made = [Command(key, account.version)] if key else []
            try:
                self.save(account, *made)
            except IntegrityError:
                if key and Command.create_id(key, 0) in self.repository:
                    return {"version": self.repository.get(Command.create_id(key, 0)).answer}
                continue
            return {"version": account.version}


accounts = Accounts()
totals: Counter[str] = Counter()


def project(stopped):
    position = 0
    while not stopped.is_set():
        found = accounts.recorder.select_notifications(position + 1, 100)
        for notification in found:
            position = notification.id
            happened = accounts.mapper.to_domain_event(notification)
            totals[type(happened).__name__] += getattr(happened, "amount", 0)
        if not found:
            time.sleep(0.05)


@asynccontextmanager
async def lifespan(app):
    stopped = threading.Event()
    projection = threading.Thread(target=project, args=(stopped,))
    projection.start()
    yield
    stopped.set()
    projection.join()


app = FastAPI(lifespan=lifespan)


@app.post("/accounts/{name}/deposit")
def deposit(name: str, amount: int, idempotency_key: str | None = Header(None)):
    return accounts.decide(name, lambda account: account.deposit(amount), idempotency_key)


@app.post("/accounts/{name}/withdraw")
def withdraw(name: str, amount: int, fee: int = 1, idempotency_key: str | None = Header(None)):
    def decision(account):
        if account.balance < amount + fee:
            raise HTTPException(409, f"only {account.balance} left")
        account.withdraw(amount)
        account.take_fee(fee)

    return accounts.decide(name, decision, idempotency_key)


@app.get("/accounts/{name}")
def show(name: str):
    account = accounts.account(name)
    return {"version": account.version, "balance": account.balance}
