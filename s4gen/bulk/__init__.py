"""Work in parts that know nothing of each other: dealing it out, keeping each part on disk, putting parts together.

dealing     which rows of a run belong to shard i of n, and in which batches
part        the folder of one part: what it belongs to, and blocks of results that are there whole or not at all
merging     whether parts belong together and none is missing
"""
