"""The tree of messages against a plain one of dictionaries, through many random changes."""

import asyncio
import random

import pytest

from samovar.app import chat_rows, message_rows
from samovar.app.database import Database


class Tree:
    """What the database should hold: parents by message, in the order of their making."""

    def __init__(self):
        self.parents = {}

    def path(self, message):
        return [] if message is None else [*self.path(self.parents[message]), message]

    def below(self, message):
        return [message, *(d for child in self.children(message) for d in self.below(child))]

    def children(self, message):
        return [child for child, parent in self.parents.items() if parent == message]

    def newest_leaf(self, message):
        order = list(self.parents)
        return max((d for d in self.below(message) if not self.children(d)), key=order.index)


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path)
    yield database
    database.close()


@pytest.mark.parametrize("seed", range(5))
def test_the_tree_is_what_a_plain_one_would_be(database, seed):
    draws, tree = random.Random(seed), Tree()

    def change(file):
        chat_id = chat_rows.insert(file, "local", {})
        for i in range(150):
            known = list(tree.parents)
            if known and draws.random() < 0.12:
                gone = draws.choice(known)
                leaf_id = message_rows.delete_below(file, message_rows.find(file, "local", gone))
                for message in tree.below(gone):
                    del tree.parents[message]
                assert leaf_id is None if not tree.parents else not tree.children(leaf_id) or leaf_id in tree.parents
            else:
                parent = draws.choice([None, *known]) if draws.random() < 0.5 or not known else known[-1]
                status = draws.choice(["done", "writing"])
                made = message_rows.insert(
                    file, chat_id=chat_id, parent_id=parent, role="user", content=f"word{i}", status=status
                )
                tree.parents[made] = parent
        return chat_id

    chat_id = asyncio.run(database.write(change))

    def look(file):
        rows = file.execute("SELECT * FROM messages WHERE chat_id = ? ORDER BY place", (chat_id,)).fetchall()
        assert [row["id"] for row in rows] == list(tree.parents)
        for message in message_rows.messages_of(file, rows):
            path = tree.path(message.id)
            assert [row["id"] for row in message_rows.path(file, message.id)] == path
            assert [row["id"] for row in message_rows.path(file, message.id, 3)] == path[-3:]
            assert message_rows.n_path(file, message.id) == len(path)
            assert sorted(message_rows.ids_below(file, message.id)) == sorted(tree.below(message.id))
            assert message_rows.newest_leaf(file, message.id) == tree.newest_leaf(message.id)
            assert message.siblings == tree.children(message.parent_id)
        indexed = {row[0] for row in file.execute("SELECT rowid FROM messages_fts")}
        assert indexed == {row["place"] for row in rows if row["status"] != "writing"}
        leaf_id = chat_rows.find(file, "local", chat_id).leaf_id
        assert leaf_id in tree.parents

    asyncio.run(database.read(look))


def test_an_interrupted_answer_is_found_by_a_search(database):
    def change(file):
        chat_id = chat_rows.insert(file, "local", {})
        message_rows.insert(file, chat_id=chat_id, parent_id=None, role="assistant", content="half an ans", status="writing")
        assert file.execute("SELECT count(*) FROM messages_fts").fetchone()[0] == 0
        assert message_rows.interrupt_all(file) == 1
        assert file.execute("SELECT count(*) FROM messages_fts WHERE messages_fts MATCH 'half'").fetchone()[0] == 1

    asyncio.run(database.write(change))
