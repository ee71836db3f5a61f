"""What the processes of one machine share: a database file, a lock, bells, room on the disk.

Must never: know what is in the file, or what a message is. Called by: brokers that are files.
"""
